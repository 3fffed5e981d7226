//! Deployments by the hundred under load: nobody fails, nothing runs twice, nothing wedges, nothing is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use multidb::testing::e6data::{Account, SessionScope};

use super::*;

/// Queries from many tasks while the stacks change places.
async fn under_load(
    server: &E6dataServer,
    clients: Vec<E6dataClient>,
    deployments: impl AsyncFnOnce(&E6dataServer),
) -> (Account, u64) {
    let (going, failed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let mut running = tokio::task::JoinSet::new();
    for (task, client) in clients.into_iter().enumerate() {
        let (going, failed) = (going.clone(), failed.clone());
        running.spawn(async move {
            let mut n = 0;
            while going.load(Ordering::Relaxed) {
                n += 1;
                if let Err(error) = run(&client, &format!("INSERT {task}-{n}")).await {
                    eprintln!("{error}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    deployments(server).await;
    going.store(false, Ordering::Relaxed);
    while let Some(ended) = soon(running.join_next()).await {
        ended.unwrap();
    }
    eventually("every query is cleared", || server.account().open == 0).await;
    (server.account(), failed.load(Ordering::Relaxed))
}

fn clean((account, failed): (Account, u64)) {
    assert_eq!(
        (failed, account.executed_twice(), account.strays),
        (0, 0, 0)
    );
    assert!(account.executed.len() > 10, "{}", account.executed.len());
}

/// An announced deployment, with a window in which both serve.
async fn deploy(server: &E6dataServer, to: Colour, window: Duration) {
    server.serves(Colour::BOTH);
    server.announces(Some(to));
    tokio::time::sleep(window).await;
    server.serves([to]);
    server.announces(None);
    tokio::time::sleep(window / 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_or_sixty_four_with_a_client_of_their_own_or_one_for_all() {
    for tasks in [1, 8, 64] {
        for shared in [true, false] {
            for scope in [SessionScope::Stack, SessionScope::Cluster] {
                let (server, client) = pair().await;
                server.session_scope(scope);
                let mut clients = vec![client; if shared { tasks } else { 1 }];
                while clients.len() < tasks.min(8) {
                    clients.push(builder(&server).connect().await.unwrap());
                }
                let result = under_load(&server, clients, async |server: &E6dataServer| {
                    for colour in [Colour::Green, Colour::Blue] {
                        deploy(server, colour, ms(40)).await;
                    }
                    for colour in [Colour::Green, Colour::Blue] {
                        server.serves([colour]);
                        tokio::time::sleep(ms(40)).await;
                    }
                });
                clean(result.await);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_switches_and_no_wedge() {
    let (server, client) = pair().await;
    let result = under_load(
        &server,
        vec![client.clone(); 8],
        async |server: &E6dataServer| {
            for n in 0..1_000 {
                let colour = Colour::BOTH[(n + 1) % 2];
                match n % 3 {
                    0 => server.serves([colour]),
                    1 => {
                        server.serves(Colour::BOTH);
                        server.announces(Some(colour));
                    }
                    _ => {
                        server.serves([colour]);
                        server.announces(None);
                    }
                }
                tokio::time::sleep(ms(3)).await;
            }
            server.announces(None);
            server.serves([Colour::Green]);
        },
    );
    clean(result.await);
    assert_eq!(run(&client, "SELECT last").await.unwrap(), "green");
    assert!(
        client.engine().snapshot().generation > 100,
        "{}",
        client.engine().explain()
    );
}

/// No query that begins after the announcement was read and green was ready goes to blue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_a_window_new_queries_go_to_the_target() {
    let (server, client) = pair().await;
    let moved = Arc::new(AtomicBool::new(false));
    let result = under_load(
        &server,
        vec![client.clone(); 8],
        async |server: &E6dataServer| {
            tokio::time::sleep(ms(50)).await;
            server.serves(Colour::BOTH);
            server.announces(Some(Colour::Green));
            until_active(&client, Colour::Green).await;
            moved.store(true, Ordering::Relaxed);
            // What had been sent by then has arrived.
            tokio::time::sleep(ms(50)).await;
            server.forget();
            tokio::time::sleep(ms(300)).await;
        },
    );
    let (account, failed) = result.await;
    assert_eq!(failed, 0);
    let prepared = |colour| account.prepared.get(&Some(colour)).copied().unwrap_or(0);
    assert_eq!(prepared(Colour::Blue), 0);
    assert!(prepared(Colour::Green) > 10, "{account:?}");
}
