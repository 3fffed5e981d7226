//! Any bytes as the file that says which database was active last.
//!
//! What is believed is what we write, byte for byte, and an id as any other.
#![no_main]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use multidb::engine::last_active::LastActive;
use multidb::{DatabaseId, LastActiveFile};

static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("multidb-fuzz-{}", std::process::id()));
    fs::write(&path, "").expect("a folder for temporary files");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file of ours");
    path
});

fuzz_target!(|bytes: &[u8]| {
    fs::write(&*PATH, bytes).expect("a file of ours");
    let Some(id) = LastActiveFile::new(&*PATH).recall() else {
        return;
    };
    let name = id.to_string();
    assert_eq!(DatabaseId::new(&name).as_ref(), Ok(&id));
    let text = std::str::from_utf8(bytes).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["multidb last active 1", &name]);
});
