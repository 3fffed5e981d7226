//! What a status means: facts about e6data's gateway, each in one place.

use tonic::{Code, Status};

use crate::backends::grpc::{is_loss, is_timeout, never_ran};
use crate::engine::backend::{
    Class, Doubt, Fault, FaultKind, NotSent, NotServing, Phase, Refusal, ServerState, Verdict,
};

/// What is done to the server, as far as doing it twice is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads, or makes what nobody will miss: a statement that is prepared twice runs once.
    Free,
    /// Runs a statement, or moves a cursor.
    Once,
}

/// What a status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The colour asked for is not served here now.
    Standby,
    /// The cluster is suspended.
    Suspended,
    /// The session is not known, or not any more.
    Denied,
    /// Who asks may not.
    Forbidden,
    /// What was asked is malformed: nothing was begun.
    Malformed,
    /// What was asked cannot be done; asked again it could not be done again.
    Wrong,
    /// It cannot now.
    Busy,
    /// It failed, or the statement did: the code does not tell.
    Failed,
}

/// `lenient`: a stack that refuses its colour may say so by INVALID_ARGUMENT, as the connector's own mock does.
pub(super) fn said(status: &Status, lenient: bool) -> Said {
    let text = status.message();
    match status.code() {
        Code::Unknown if says(text, "status: 456") => Said::Standby,
        Code::InvalidArgument if lenient && says(text, "status: 456") => Said::Standby,
        Code::Unavailable if says(text, "status: 503") => Said::Suspended,
        Code::Internal if text.contains("Access denied") => Said::Denied,
        Code::Unauthenticated | Code::PermissionDenied => Said::Forbidden,
        Code::InvalidArgument => Said::Malformed,
        Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Cancelled
        | Code::Aborted => Said::Wrong,
        Code::Unavailable | Code::ResourceExhausted => Said::Busy,
        Code::Internal | Code::Unknown | Code::DataLoss | Code::DeadlineExceeded | Code::Ok => {
            Said::Failed
        }
    }
}

/// Holds `needle` in any case, not followed by another digit.
fn says(text: &str, needle: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.match_indices(needle).any(|(at, _)| {
        let next = text[at + needle.len()..].chars().next();
        !next.is_some_and(|c| c.is_ascii_digit())
    })
}

/// What became of an attempt. Total.
pub(super) fn class(phase: Phase, status: Option<&Status>, kind: Kind, lenient: bool) -> Class {
    let status = match (phase, status) {
        (Phase::TimedOut, _) => return Class::Unknown(Doubt::TimedOut),
        (_, Some(status)) if is_timeout(status) => return Class::Unknown(Doubt::TimedOut),
        (_, Some(status)) if never_ran(status) => return Class::NotExecuted(Refusal::State(BUSY)),
        (Phase::Lost { sent: false }, _) => return Class::NotSent(NotSent::Lost),
        (Phase::Lost { sent: true }, _) => return Class::Unknown(Doubt::Lost),
        (Phase::Answered, None) => return Class::Executed,
        (Phase::Answered, Some(status)) => status,
    };
    match said(status, lenient) {
        Said::Standby => Class::NotServing(NotServing::Standby),
        Said::Suspended => Class::NotServing(NotServing::Suspended),
        Said::Denied => Class::SessionInvalid,
        Said::Forbidden => Class::NotExecuted(Refusal::Denied),
        Said::Malformed => Class::NotExecuted(Refusal::Caller),
        Said::Wrong => match kind {
            Kind::Free => Class::NotExecuted(Refusal::Caller),
            Kind::Once => Class::Executed,
        },
        Said::Busy => match kind {
            Kind::Free => Class::NotExecuted(Refusal::State(BUSY)),
            // It may have begun before something behind it became unavailable.
            Kind::Once => Class::Unknown(Doubt::Protocol),
        },
        Said::Failed => Class::Executed,
    }
}

/// "Not now": believed if it persists.
const BUSY: ServerState = ServerState {
    code: "UNAVAILABLE",
    at_once: false,
    elsewhere: true,
};

/// What a failed health check found.
pub(super) fn verdict(status: &Status, lenient: bool) -> Verdict {
    if is_loss(status) {
        return Verdict::Unhealthy(Fault::new(FaultKind::Lost, "connection lost"));
    }
    let fault = |kind, what: &str| Verdict::Unhealthy(Fault::new(kind, what));
    if is_timeout(status) {
        return fault(FaultKind::Silent, "no answer in time");
    }
    match said(status, lenient) {
        Said::Standby => Verdict::Standby,
        Said::Suspended => Verdict::Suspended,
        // Of a session that is being asked for: of the password.
        Said::Denied | Said::Forbidden => fault(FaultKind::Denied, "credentials refused"),
        Said::Busy => fault(FaultKind::State, "unavailable"),
        // The text of a server may hold anything.
        Said::Malformed | Said::Wrong | Said::Failed => {
            let what = format!("answered {:?}", status.code());
            Verdict::Unhealthy(Fault::new(FaultKind::Other, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: Code, text: &str, kind: Kind) -> Class {
        class(Phase::Answered, Some(&Status::new(code, text)), kind, false)
    }

    #[test]
    fn a_refused_colour_is_told_by_code_and_text_and_nothing_else() {
        let standby = Class::NotServing(NotServing::Standby);
        for text in [
            "status: 456",
            "Status: 456.",
            "rpc failed (STATUS: 456, x)",
            "a status: 456",
        ] {
            assert_eq!(answered(Code::Unknown, text, Kind::Once), standby, "{text}");
            assert_ne!(
                answered(Code::Internal, text, Kind::Once),
                standby,
                "{text}"
            );
            assert_ne!(
                answered(Code::InvalidArgument, text, Kind::Once),
                standby,
                "{text}"
            );
        }
        for text in [
            "status: 4567",
            "status:456",
            "456",
            "",
            "status 456",
            "status: 45",
        ] {
            assert_eq!(
                answered(Code::Unknown, text, Kind::Once),
                Class::Executed,
                "{text}"
            );
        }
        let mock =
            Status::invalid_argument("Wrong strategy. Status: 456. Expected: blue, Got: green");
        assert_eq!(said(&mock, true), Said::Standby);
        assert_eq!(said(&mock, false), Said::Malformed);
    }

    #[test]
    fn a_suspended_cluster_and_a_lost_session_are_no_failures() {
        let suspended = answered(
            Code::Unavailable,
            "status: 503, cluster is suspended",
            Kind::Free,
        );
        assert_eq!(suspended, Class::NotServing(NotServing::Suspended));
        let denied = answered(Code::Internal, "x Access denied y", Kind::Once);
        assert_eq!(denied, Class::SessionInvalid);
        assert!(matches!(
            verdict(&Status::unavailable("status: 503"), false),
            Verdict::Suspended
        ));
    }

    /// A statement that may have run is never said not to have.
    #[test]
    fn what_may_have_run_is_in_doubt() {
        for code in (0..=16).map(Code::from_i32) {
            let class = answered(code, "x", Kind::Once);
            // The codes by which admission is refused: nothing was submitted.
            let refused = matches!(
                code,
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
            );
            assert_eq!(class.is_retry_safe(), refused, "{code:?}: {class:?}");
        }
        let lost = class(Phase::Lost { sent: true }, None, Kind::Once, false);
        assert_eq!(lost, Class::Unknown(Doubt::Lost));
    }

    #[test]
    fn the_texts_of_a_server_are_not_repeated() {
        let Verdict::Unhealthy(fault) = verdict(&Status::internal("user s3cret"), false) else {
            panic!();
        };
        assert!(!fault.what.contains("s3cret"));
    }
}
