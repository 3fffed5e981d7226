//! Any bytes as the columns of a result, as any answer, and as the status of a call.
//!
//! No answer names a colour that is none; no status makes a statement that may have run look as if it had not;
//! nothing of a server's words is repeated by a health check.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidb::e6data::Colour;
use multidb::e6data::fuzzing::{announced, class_of_execute, metadata, verdict};
use tonic::{Code, Status};

fuzz_target!(|input: &[u8]| {
    let [code, bytes @ ..] = input else { return };
    if let Ok(metadata) = metadata(bytes) {
        // Each column takes a few bytes at least.
        assert!(metadata.columns.len() <= bytes.len());
        let _ = format!("{metadata:?}");
    }
    for word in announced(bytes) {
        if let Some(colour) = Colour::named(&word) {
            assert!(word.eq_ignore_ascii_case(colour.as_str()));
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (code, lenient) = (Code::from(i32::from(code & 0x1f)), code & 0x80 != 0);
    let status = Status::new(code, text);
    if class_of_execute(&status, lenient).is_retry_safe() {
        // By a code that refuses who asks or what is asked, or by words that the gateway is known for.
        let refused = matches!(
            code,
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
        );
        let lower = text.to_ascii_lowercase();
        let known = ["status: 456", "status: 503", "access denied"];
        assert!(
            refused || known.iter().any(|words| lower.contains(words)),
            "{status:?}"
        );
    }
    // Whatever else the text was, a check says the same.
    let plain = verdict(&Status::new(code, "x"), lenient);
    let said = verdict(&status, lenient);
    if said != plain {
        let said = format!("{said:?}");
        assert!(
            said.len() < 100 && (text.len() < 16 || !said.contains(text)),
            "{said}"
        );
    }
});
