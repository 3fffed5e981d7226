//! One look: the requests, the answers, and the uid that is remembered between looks.

use std::net::{Ipv4Addr, SocketAddr};

use multidb::{Fault, FaultKind, Verdict};
use socket2::{Domain, Socket, Type};
use tokio::time::{Duration, Instant};

use crate::stand_in::{Ca, LIST, Reply, StandIn, availability, lags, list};
use crate::{Eyes, LIMIT, Scene, database, degraded, here, is_degraded, trusting};

const SECRET: &str = "canary/pw+7f3a";

fn ok() -> Reply {
    Reply::Status(200, String::new())
}

// === what is asked ===

#[tokio::test]
async fn a_database_is_found_once_and_then_asked_about() {
    let scene = Scene::new().await;
    let check = scene.check().build().unwrap();
    for _ in 0..3 {
        assert_eq!(scene.eyes.look(&check, &here()).await, Verdict::Healthy);
    }
    let path = availability(7);
    assert_eq!(scene.api.paths(), [LIST, &path, &path, &path]);
    for asked in scene.api.asked() {
        assert!(asked.line.starts_with("GET "), "{}", asked.line);
        assert!(asked.line.ends_with(" HTTP/1.1"), "{}", asked.line);
        let host = format!("127.0.0.1:{}", scene.api.port());
        assert_eq!(asked.header("host"), Some(&*host));
        assert_eq!(asked.header("accept"), Some("application/json"));
        assert_eq!(asked.header("accept-encoding"), None);
        assert_eq!(asked.header("authorization"), None);
        assert_eq!(asked.header("cookie"), None);
    }
}

#[tokio::test]
async fn the_settings_are_in_the_requests() {
    let scene = Scene::new().await;
    let path = "/v1/bdbs/7/availability?extend_check=lag&availability_lag_tolerance_ms=100";
    scene.api.answers(path, ok());
    let check = scene.check().tolerance(Duration::from_millis(100));
    let check = check.basic_auth("Aladdin", "open sesame");
    assert_eq!(scene.look(check).await, Verdict::Healthy);
    let path = "/v1/bdbs/7/availability";
    scene.api.answers(path, ok());
    let check = scene.check().extended(false);
    let check = check.basic_auth("nobody", "nothing");
    let check = check.basic_auth_for(|database| {
        (*database.id() == "east").then(|| ("Aladdin".to_owned(), "open sesame".to_owned()))
    });
    assert_eq!(scene.look(check).await, Verdict::Healthy);
    assert_eq!(scene.api.paths()[3], path);
    for asked in scene.api.asked() {
        let sent = asked.header("authorization");
        assert_eq!(sent, Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    }
}

#[tokio::test]
async fn among_databases_of_one_host_the_port_decides() {
    let scene = Scene::new().await;
    let all = [
        (1, "db.example", "10.0.0.1", 12000),
        (2, "db.example", "10.0.0.1", 12001),
        (3, "other.example", "10.0.0.1", 12002),
    ];
    scene.api.answers(LIST, list(&all));
    scene.api.answers(availability(1), ok());
    scene.api.answers(availability(2), lags());
    scene.api.answers(availability(3), ok());
    let url = scene.api.url();
    let check = scene.check().url_for(move |_| Some(url.clone()));
    let check = check.build().unwrap();
    for (id, url, healthy) in [
        ("a", "redis://db.example:12000", true),
        ("b", "redis://DB.example.:12001", false),
        ("c", "redis://10.0.0.1:12002/3", true),
    ] {
        let verdict = scene.eyes.look(&check, &database(id, url)).await;
        assert_eq!(verdict == Verdict::Healthy, healthy, "{id}: {verdict:?}");
    }
    let unknown = "it knows no database at this host and port";
    for url in ["redis://db.example:12002", "redis://example:12000"] {
        let verdict = scene.eyes.look(&check, &database("d", url)).await;
        is_degraded(verdict, FaultKind::Other, unknown);
    }
}

/// Naive: the place to ask at is kept in the check.
#[tokio::test]
async fn s31_two_databases_that_are_looked_at_at_once_are_asked_about_at_their_own_clusters() {
    let ca = Ca::new("both");
    let (east, west) = (StandIn::start(&ca).await, StandIn::start(&ca).await);
    for (api, uid, port) in [(&east, 1, 12001), (&west, 2, 12002)] {
        api.answers(LIST, list(&[(uid, "db.example", "10.0.0.1", port)]));
    }
    east.answers(availability(1), ok());
    west.answers(availability(2), lags());
    let urls = [east.url(), west.url()];
    let check = trusting(ca.trusted())
        .url_for(move |database| Some(urls[usize::from(*database.id() == "west")].clone()))
        .basic_auth_for(|database| Some((database.id().to_string(), String::new())))
        .build()
        .unwrap();
    let eyes = Eyes::new().await;
    let databases = [
        database("east", "redis://db.example:12001"),
        database("west", "redis://db.example:12002"),
    ];
    for _ in 0..20 {
        let (a, b) = tokio::join!(
            eyes.look(&check, &databases[0]),
            eyes.look(&check, &databases[1]),
        );
        assert_eq!(a, Verdict::Healthy);
        assert_eq!(degraded(b).0, FaultKind::State);
    }
    for (api, uid, user) in [(&east, 1, "Basic ZWFzdDo="), (&west, 2, "Basic d2VzdDo=")] {
        let paths = api.paths();
        assert_eq!(paths.len(), 21, "{paths:?}");
        assert!(paths[1..].iter().all(|path| *path == availability(uid)));
        let mut sent = api.asked();
        sent.retain(|asked| asked.header("authorization") != Some(user));
        assert!(sent.is_empty(), "{sent:?}");
    }
}

#[tokio::test]
async fn a_uid_that_is_unknown_now_is_asked_for_anew_by_the_next_look() {
    let scene = Scene::new().await;
    let check = scene.check().build().unwrap();
    assert_eq!(scene.eyes.look(&check, &here()).await, Verdict::Healthy);
    let body = r#"{"error_code":"db_not_found"}"#.to_owned();
    scene.api.answers(availability(7), Reply::Status(404, body));
    scene
        .api
        .answers(LIST, list(&[(8, "", "127.0.0.1", 12000)]));
    scene.api.answers(availability(8), lags());
    let verdict = scene.eyes.look(&check, &here()).await;
    is_degraded(
        verdict,
        FaultKind::Other,
        "no answer to use (404 db_not_found)",
    );
    assert_eq!(scene.api.paths().len(), 3, "no look tries again by itself");
    for _ in 0..2 {
        let verdict = scene.eyes.look(&check, &here()).await;
        is_degraded(
            verdict,
            FaultKind::State,
            "not available (503 bdb_unavailable)",
        );
    }
    let (seven, eight) = (availability(7), availability(8));
    let paths = scene.api.paths();
    assert_eq!(paths, [LIST, &seven, &seven, LIST, &eight, &eight]);
}

#[tokio::test]
async fn a_database_that_moved_is_looked_for_anew() {
    let scene = Scene::new().await;
    let all = [(7, "", "127.0.0.1", 12000), (8, "", "127.0.0.1", 12001)];
    scene.api.answers(LIST, list(&all));
    scene.api.answers(availability(8), ok());
    let check = scene.check().build().unwrap();
    let moved = database("east", "redis://127.0.0.1:12001");
    assert_eq!(scene.eyes.look(&check, &here()).await, Verdict::Healthy);
    assert_eq!(scene.eyes.look(&check, &moved).await, Verdict::Healthy);
    let (seven, eight) = (availability(7), availability(8));
    assert_eq!(scene.api.paths(), [LIST, &seven, LIST, &eight]);
}

// === what is answered ===

#[tokio::test]
async fn only_a_database_that_the_api_calls_unavailable_is_ever_unhealthy() {
    let scene = Scene::new().await;
    scene.api.answers(availability(7), lags());
    let lagging = "not available (503 bdb_unavailable)";
    is_degraded(scene.look(scene.check()).await, FaultKind::State, lagging);
    let fault = Fault::new(FaultKind::State, format!("REST API: {lagging}"));
    let verdict = scene.look(scene.check().evicting()).await;
    assert_eq!(verdict, Verdict::Unhealthy(fault));

    let quorum = r#"{"error_code":"no_quorum"}"#;
    for (reply, kind) in [
        (Reply::Status(503, quorum.to_owned()), FaultKind::State),
        (Reply::Status(503, "<html>".to_owned()), FaultKind::State),
        (Reply::Status(401, String::new()), FaultKind::Denied),
        (Reply::Status(404, String::new()), FaultKind::Other),
        (Reply::Raw("SSH-2.0-OpenSSH_9.2\r\n"), FaultKind::Other),
        (Reply::Raw(""), FaultKind::Lost),
        (Reply::Raw("HTTP/1.1 200 OK\r\nContent-Le"), FaultKind::Lost),
    ] {
        scene.api.answers(availability(7), reply);
        let (told, what) = degraded(scene.look(scene.check().evicting()).await);
        assert_eq!(told, kind, "{what}");
    }
    for list in ["", "{", "{}", "<html>", "[{\"uid\":-1}]"] {
        scene.api.answers(LIST, Reply::Status(200, list.to_owned()));
        let verdict = scene.look(scene.check().evicting()).await;
        is_degraded(
            verdict,
            FaultKind::Other,
            "no list of databases in its answer",
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let scene = Scene::new().await;
    let target = StandIn::start(&scene.ca).await;
    for path in [availability(7), LIST.to_owned()] {
        let elsewhere = format!("{}{path}", target.url());
        scene.api.answers(path, Reply::Redirect(elsewhere));
        let check = scene.check().basic_auth("user", SECRET).evicting();
        let redirect = "a redirect, which is not followed (307)";
        is_degraded(scene.look(check).await, FaultKind::Other, redirect);
    }
    assert_eq!(target.connections(), 0);
}

/// Naive: what is not announced by a length is read to its end.
#[tokio::test]
async fn an_answer_without_end_is_refused_while_it_is_read() {
    let scene = Scene::new().await;
    for path in [availability(7), LIST.to_owned()] {
        scene.api.answers(path, Reply::Chunks(256 << 20));
        let asked = Instant::now();
        let verdict = scene.look(scene.check().evicting()).await;
        is_degraded(verdict, FaultKind::Other, "more than 1 MiB in an answer");
        assert!(asked.elapsed() < LIMIT / 2, "{:?}", asked.elapsed());
    }
    // What the sockets of both sides hold comes on top of it.
    assert!(scene.api.sent() < 64 << 20, "{}", scene.api.sent());
    scene.api.answers(LIST, Reply::Chunks(2 << 20));
    let verdict = scene.look(scene.check()).await;
    is_degraded(verdict, FaultKind::Other, "more than 1 MiB in an answer");
    scene
        .api
        .answers(LIST, Reply::Raw("HTTP/1.1 200 OK\r\n\r\n[]"));
    let unknown = "it knows no database at this host and port";
    is_degraded(scene.look(scene.check()).await, FaultKind::Other, unknown);
}

#[tokio::test]
async fn an_api_that_never_answers_costs_the_timeout_and_no_more() {
    let scene = Scene::new().await;
    let timeout = Duration::from_millis(200);
    for path in [availability(7), LIST.to_owned()] {
        scene.api.answers(path, Reply::Silence);
        let asked = Instant::now();
        let check = scene.check().timeout(timeout).evicting();
        let silent = "no answer within 200 ms";
        is_degraded(scene.look(check).await, FaultKind::Silent, silent);
        assert!(asked.elapsed() >= timeout, "{:?}", asked.elapsed());
        assert!(asked.elapsed() < LIMIT / 4, "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn nobody_at_the_port_is_told_at_once() {
    let scene = Scene::new().await;
    // Bound, so that nobody else listens there either.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    nobody.bind(&any_port.into()).unwrap();
    let address = nobody.local_addr().unwrap().as_socket().unwrap();
    let port = address.port();
    let verdict = scene.look(scene.check().port(port).evicting()).await;
    is_degraded(verdict, FaultKind::Unreachable, "connection refused");
}

/// A look that is dropped leaves no connection behind, and the next one is none the wiser.
#[tokio::test]
async fn a_look_may_be_dropped_at_any_time() {
    let scene = Scene::new().await;
    let check = scene.check().build().unwrap();
    scene.api.answers(availability(7), Reply::Silence);
    let database = here();
    let look = scene.eyes.look(&check, &database);
    let dropped = async {
        tokio::select! {
            verdict = look => panic!("{verdict:?}"),
            () = crate::support::eventually(LIMIT, "both are asked", async || scene.api.paths().len() == 2) => {}
        }
    };
    dropped.await;
    scene.api.answers(availability(7), ok());
    assert_eq!(scene.eyes.look(&check, &database).await, Verdict::Healthy);
    let path = availability(7);
    assert_eq!(scene.api.paths(), [LIST, &path, &path]);
}

// === where it is asked ===

#[tokio::test]
async fn http_is_spoken_only_where_that_was_asked_for() {
    let scene = Scene::new().await;
    let api = StandIn::plain().await;
    api.answers(
        "/rs/v1/bdbs?fields=uid,endpoints",
        list(&[(7, "", "127.0.0.1", 12000)]),
    );
    api.answers(format!("/rs{}", availability(7)), ok());
    let url = api.url().replace("https", "http") + "/rs/";
    let check = || {
        let url = url.clone();
        scene.check().url_for(move |_| Some(url.clone()))
    };
    let refused = "the URL given for it asks for http, which takes plain_http";
    is_degraded(scene.look(check()).await, FaultKind::Other, refused);
    assert_eq!(api.connections(), 0);
    assert_eq!(scene.look(check().plain_http()).await, Verdict::Healthy);
    assert_eq!(api.connections(), 2);
    let verdict = scene.look(scene.check().plain_http()).await;
    assert_eq!(
        verdict,
        Verdict::Healthy,
        "the default is https all the same"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_has_nobody_to_ask() {
    let scene = Scene::new().await;
    let check = scene.check().evicting().build().unwrap();
    let socket = database("east", "unix:///run/redis.sock");
    let nobody = "a unix socket has no host to ask about";
    is_degraded(
        scene.eyes.look(&check, &socket).await,
        FaultKind::Other,
        nobody,
    );
    assert_eq!(scene.api.connections(), 0);
}

// === secrets ===

#[tokio::test]
async fn no_secret_and_no_word_of_others_is_in_anything_that_is_said() {
    let scene = Scene::new().await;
    let body = format!(r#"{{"error_code":"{SECRET}","description":"{SECRET}"}}"#);
    let encoded = "dXNlcjpjYW5hcnkvcHcrN2YzYQ==";
    let mut said = Vec::new();
    let with_auth = || scene.check().basic_auth("user", SECRET);
    said.push(format!("{:?} {:#?}", with_auth(), with_auth()));
    said.push(format!("{:?}", with_auth().build().unwrap()));
    let of = |secret: &'static str| {
        let check = with_auth().url_for(move |_| Some(format!("https://user:{secret}@127.0.0.1")));
        check.basic_auth_for(move |_| Some(("user:".to_owned(), format!("{secret}\n"))))
    };
    said.push(format!("{:?}", of(SECRET)));
    said.push(format!("{:?}", scene.look(of("canary")).await));
    said.push(format!("{:?}", scene.look(of(SECRET)).await));
    let unfit = with_auth().basic_auth_for(|_| Some(("user:".to_owned(), SECRET.to_owned())));
    said.push(format!("{:?}", scene.look(unfit).await));
    assert!(scene.api.asked().is_empty());
    for status in [200, 307, 401, 404, 503] {
        for path in [availability(7), LIST.to_owned()] {
            scene.api.answers(path, Reply::Status(status, body.clone()));
            said.push(format!("{:?}", scene.look(with_auth()).await));
        }
    }
    let sent = scene.api.asked();
    let authorization = format!("Basic {encoded}");
    assert!(!sent.is_empty());
    for asked in sent {
        assert_eq!(asked.header("authorization"), Some(&*authorization));
    }
    for said in said {
        for secret in ["canary", "7f3a", encoded] {
            assert!(!said.contains(secret), "{said}");
        }
    }
}
