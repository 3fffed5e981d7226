//! Whom the check trusts, and as whom it is trusted.

use multidb::redis::TlsConfig;
use multidb::{FaultKind, Verdict};

use crate::stand_in::{Ca, LIST, Reply, StandIn, availability, list};
use crate::{Eyes, Scene, here, is_degraded, trusting};

#[tokio::test]
async fn an_api_of_an_unknown_ca_is_refused_before_it_is_told_anything() {
    let scene = Scene::new().await;
    let other = Ca::new("other");
    let check = trusting(other.trusted()).port(scene.api.port()).evicting();
    let unknown = "certificate refused: unknown issuer";
    is_degraded(scene.look(check).await, FaultKind::Denied, unknown);
    let elsewhere = scene.ca.trusted().server_name("db.example").unwrap();
    let check = trusting(elsewhere).port(scene.api.port());
    let not_for = "certificate refused: not for this host";
    is_degraded(scene.look(check).await, FaultKind::Denied, not_for);
    assert!(scene.api.asked().is_empty());

    let anyone = TlsConfig::new().danger_accept_invalid_certs();
    let check = trusting(anyone).port(scene.api.port());
    assert_eq!(scene.look(check).await, Verdict::Healthy);
}

#[tokio::test]
async fn an_api_that_asks_for_a_certificate_is_shown_one_or_refuses() {
    let ca = Ca::new("cluster");
    let api = StandIn::asking_for_certificates(&ca).await;
    api.answers(LIST, list(&[(7, "", "127.0.0.1", 12000)]));
    api.answers(availability(7), Reply::Status(200, String::new()));
    let eyes = Eyes::new().await;
    let look = async |tls: TlsConfig| {
        let check = trusting(tls).port(api.port()).evicting().build().unwrap();
        eyes.look(&check, &here()).await
    };
    // With TLS 1.3 the server says so after the handshake, when the request may be under way already.
    let refused = "client certificate refused";
    for _ in 0..10 {
        is_degraded(look(ca.trusted()).await, FaultKind::Denied, refused);
    }
    let theirs = Ca::new("other").identity("client");
    let wrong = ca.trusted().client_identity_pem(theirs.cert, theirs.key);
    is_degraded(look(wrong.unwrap()).await, FaultKind::Denied, refused);
    assert!(api.asked().is_empty());
    let ours = ca.identity("client");
    let right = ca.trusted().client_identity_pem(ours.cert, ours.key);
    assert_eq!(look(right.unwrap()).await, Verdict::Healthy);
}

#[tokio::test]
async fn an_api_without_tls_is_no_riddle() {
    let scene = Scene::new().await;
    let api = StandIn::plain().await;
    api.answers(LIST, list(&[(7, "", "127.0.0.1", 12000)]));
    let timeout = std::time::Duration::from_millis(300);
    let check = scene.check().port(api.port()).timeout(timeout);
    let (kind, what) = crate::degraded(scene.look(check.basic_auth("user", "canary")).await);
    assert!(
        matches!(kind, FaultKind::Silent | FaultKind::Other | FaultKind::Lost),
        "{kind:?} {what}"
    );
    assert!(api.asked().is_empty());
}
