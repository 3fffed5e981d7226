use super::*;

const SECRET: &str = "canary-7f3a";

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        body: body.to_owned().into(),
    }
}

/// An answer's kind of fault and its words.
fn unclear(status: u16, body: &str) -> (FaultKind, String) {
    match said(&answer(status, body)) {
        Said::Unclear(fault) => (fault.kind, fault.what),
        other => panic!("{status} {body}: {other:?}"),
    }
}

fn problem(code: &str) -> String {
    format!(r#"{{"error_code":"{code}","description":"{SECRET}"}}"#)
}

#[test]
fn only_200_is_available_and_only_the_api_can_say_that_a_database_is_not() {
    assert_eq!(said(&answer(200, "")), Said::Available);
    assert_eq!(said(&answer(200, "<html>")), Said::Available);
    for code in [
        "bdb_unavailable",
        "bdb_unavailable_shard_unreachable_port_unbound",
    ] {
        let fault = Fault::new(FaultKind::State, format!("not available (503 {code})"));
        assert_eq!(said(&answer(503, &problem(code))), Said::Unavailable(fault));
    }
    let state = |what: &str| (FaultKind::State, what.to_owned());
    assert_eq!(unclear(503, ""), state("not available (503)"));
    assert_eq!(unclear(503, "<html>"), state("not available (503)"));
    assert_eq!(
        unclear(503, &problem("no_quorum")),
        state("not available (503 no_quorum)")
    );
}

#[test]
fn what_else_is_answered_is_told_by_its_number_and_a_code_that_looks_like_one() {
    let other = |what: &str| (FaultKind::Other, what.to_owned());
    let denied = |what: &str| (FaultKind::Denied, what.to_owned());
    let not_found = problem("db_not_found");
    assert_eq!(
        unclear(404, &not_found),
        other("no answer to use (404 db_not_found)")
    );
    for status in [204, 400, 500] {
        let what = format!("no answer to use ({status})");
        assert_eq!(unclear(status, ""), other(&what));
    }
    for status in [401, 403] {
        let what = format!("credentials refused ({status})");
        assert_eq!(unclear(status, ""), denied(&what));
    }
    let redirect = "a redirect, which is not followed (307)";
    assert_eq!(unclear(307, ""), other(redirect));
    let long = "a".repeat(65);
    for code in [SECRET, "", "Upper", "with space", &long, "bdb_\\u0000"] {
        assert_eq!(unclear(400, &problem(code)).1, "no answer to use (400)");
        assert_eq!(unclear(503, &problem(code)).1, "not available (503)");
    }
}

#[test]
fn a_uid_outlives_an_outage_and_nothing_else_but_success() {
    let outdated = |status, body: &str| is_outdated(&answer(status, body));
    assert!(!outdated(200, ""));
    assert!(!outdated(503, &problem("bdb_unavailable")));
    assert!(!outdated(503, ""));
    assert!(outdated(503, &problem("db_not_found")));
    for status in [204, 307, 400, 401, 404, 500] {
        assert!(outdated(status, ""), "{status}");
    }
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let (ok, zero, long) = (
        || LagAware::builder().tls(TlsConfig::new().danger_accept_invalid_certs()),
        Duration::ZERO,
        Duration::from_secs(86_401),
    );
    ok().build().unwrap();
    for (builder, field) in [
        (ok().port(0), "port"),
        (ok().tolerance(zero), "tolerance"),
        (ok().tolerance(long), "tolerance"),
        (ok().timeout(zero), "timeout"),
        (ok().timeout(long), "timeout"),
        (ok().basic_auth("a:b", SECRET), "basic_auth"),
        (ok().basic_auth("a", format!("{SECRET}\n")), "basic_auth"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.field(), field);
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
}

#[test]
fn a_look_is_asked_for_by_its_settings() {
    let ok = || LagAware::builder().tls(TlsConfig::new().danger_accept_invalid_certs());
    let query = |builder: LagAwareBuilder| builder.build().unwrap().query;
    let lag = "?extend_check=lag&availability_lag_tolerance_ms=";
    assert_eq!(query(ok()), format!("{lag}5000"));
    assert_eq!(
        query(ok().tolerance(Duration::from_micros(100_900))),
        format!("{lag}100")
    );
    assert_eq!(query(ok().extended(false)), "");
    let check = ok().build().unwrap();
    assert_eq!((check.port, check.timeout), (9443, Duration::from_secs(3)));
}
