//! Around the client: what processes know of each other, synchronous code, TLS, what it weighs.

use multidb::LastActiveInMemory;
use multidb::e6data::{E6dataErrorKind, TlsConfig};

use super::*;

#[tokio::test]
async fn a_process_that_starts_begins_where_the_last_one_was() {
    let server = E6dataServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stack");
    let make = || builder(&server).last_active_file(&path);
    let first = make().connect().await.unwrap();
    server.serves([Colour::Green]);
    assert_eq!(run(&first, "SELECT 1").await.unwrap(), "green");
    let written = || std::fs::read_to_string(&path).is_ok_and(|text| text.contains("green"));
    eventually("it is written down", written).await;
    first.close().await;
    // A window: whoever knows nothing begins with blue.
    server.serves(Colour::BOTH);
    let second = make().connect().await.unwrap();
    assert_eq!(run(&second, "SELECT 2").await.unwrap(), "green");
    // A hint that is wrong by now costs nothing.
    server.serves([Colour::Blue]);
    let third = make()
        .last_active(LastActiveInMemory::default())
        .connect()
        .await
        .unwrap();
    assert_eq!(run(&third, "SELECT 3").await.unwrap(), "blue");
}

#[cfg(feature = "blocking")]
#[test]
fn synchronous_code_has_it_all() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(E6dataServer::start()).unwrap();
    let client = builder(&server).connect_blocking().unwrap();
    let connection = client.blocking_connection();
    let query = connection.query_with("SELECT ?", &[1.into()]).unwrap();
    let rows: Result<Vec<_>, _> = query.collect();
    assert_eq!(rows.unwrap().len(), 5);
    let mut cursor = connection.cursor();
    cursor.execute("SELECT 2").unwrap();
    assert!(cursor.fetch_one().unwrap().is_some());
    server.serves([Colour::Green]);
    let mut query = connection.query("SELECT 3").unwrap();
    assert_eq!(
        query.fetch_all().unwrap()[0]
            .named::<String>("ran_on")
            .unwrap(),
        "green"
    );
    assert_eq!(connection.schemas().unwrap(), ["cat_a", "cat_b"]);
    drop((query, cursor));
    let cleared = eventually("what is dropped on any thread is cleared", || {
        server.account().open == 0
    });
    runtime.block_on(cleared);
}

#[tokio::test]
async fn tls_is_spoken_with_whom_it_may_be_and_with_nobody_else() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let server = E6dataServer::start_with_tls(&cert, &key).await.unwrap();
    let tls = TlsConfig::new().ca_pem(&cert).unwrap();
    let client = builder(&server).tls(tls).connect().await.unwrap();
    assert_eq!(run(&client, "SELECT 1").await.unwrap(), "blue");
    server.serves([Colour::Green]);
    assert_eq!(run(&client, "SELECT 2").await.unwrap(), "green");

    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let began = tokio::time::Instant::now();
    let tls = TlsConfig::new().ca_pem(other.cert.pem()).unwrap();
    let error = builder(&server).tls(tls).connect().await.unwrap_err();
    assert_eq!(*error.kind(), E6dataErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("certificate refused"), "{error}");
    let plain = builder(&server).connect().await;
    plain.unwrap_err();
    assert!(began.elapsed() < secs(9), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_said_not_to() {
    let server = E6dataServer::start().await.unwrap();
    let began = tokio::time::Instant::now();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = TlsConfig::new().ca_pem(made.cert.pem()).unwrap();
    let error = builder(&server).tls(tls).connect().await.unwrap_err();
    assert!(began.elapsed() < secs(4), "{:?}", began.elapsed());
    assert!(
        matches!(error.kind(), E6dataErrorKind::Engine(_)),
        "{error}"
    );
    assert!(
        error.to_string().contains("TLS") || error.to_string().contains("lost"),
        "{error}"
    );
}
