//! In a file, for the processes of one user on one machine.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::geteuid;

use super::LastActive;
use crate::engine::database::DatabaseId;

/// A file with the id of the database that was active last, and nothing else.
///
/// It is believed only if it is a plain file of this user's that nobody else can read or write, has not more
/// than 1 KiB and is not older than `max_age`; links are not followed. Whatever is wrong with it, it is as if
/// it were not there. It is replaced as a whole, by a file with mode 0600.
#[derive(Clone, Debug)]
pub struct LastActiveFile {
    path: PathBuf,
    max_age: Duration,
}

const LARGEST: u64 = 1024;
const HEADER: &str = "multidb last active 1";

impl LastActiveFile {
    /// In this file. Its folder must be there, and should be writable for this user alone.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_age: Duration::from_secs(86_400),
        }
    }

    /// How old what it says may be. Default one day; it is only where to begin.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    fn read(&self) -> io::Result<Option<DatabaseId>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32)
            .open(&self.path)?;
        // Of what was opened, not of what the name may stand for by now.
        if !self.is_trusted(&file.metadata()?) {
            return Ok(None);
        }
        let mut text = String::new();
        file.take(LARGEST + 1).read_to_string(&mut text)?;
        if text.len() as u64 > LARGEST {
            return Ok(None);
        }
        let mut lines = text.lines();
        let header = lines.next() == Some(HEADER);
        let id = lines.next().and_then(|id| DatabaseId::new(id).ok());
        Ok(id.filter(|_| header && lines.next().is_none()))
    }

    fn is_trusted(&self, file: &Metadata) -> bool {
        let age = file.modified().ok().and_then(age);
        file.is_file()
            && file.uid() == geteuid().as_raw()
            && file.mode() & 0o077 == 0
            && file.nlink() == 1
            && file.len() <= LARGEST
            && age.is_some_and(|age| age <= self.max_age)
    }

    fn write(&self, database: &DatabaseId) -> io::Result<()> {
        let beside = self.beside()?;
        let written = create(&beside).and_then(|mut file| {
            file.write_all(format!("{HEADER}\n{database}\n").as_bytes())?;
            file.sync_all()
        });
        let replaced = written.and_then(|()| fs::rename(&beside, &self.path));
        if replaced.is_err() {
            let _ = fs::remove_file(&beside);
        }
        replaced
    }

    /// A name of its own in the same folder, so that it can be moved into place.
    fn beside(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut name = name.to_os_string();
        name.push(format!(
            ".{}.{:016x}",
            std::process::id(),
            fastrand::u64(..)
        ));
        Ok(self.path.with_file_name(name))
    }
}

/// By the wall clock, as everything about files. `None` for one from the future.
#[expect(
    clippy::disallowed_types,
    reason = "nothing but where to begin depends on it"
)]
fn age(modified: std::time::SystemTime) -> Option<Duration> {
    std::time::SystemTime::now().duration_since(modified).ok()
}

/// Made here and now: a link of that name is not followed, nor is a file of somebody else's taken.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

impl LastActive for LastActiveFile {
    fn recall(&self) -> Option<DatabaseId> {
        self.read().ok().flatten()
    }

    fn remember(&self, database: &DatabaseId) {
        // What cannot be kept is not known to whoever starts next; nothing else depends on it.
        let _ = self.write(database);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn id(name: &str) -> DatabaseId {
        DatabaseId::new(name).unwrap()
    }

    fn file() -> (tempfile::TempDir, LastActiveFile) {
        let folder = tempfile::tempdir().unwrap();
        let file = LastActiveFile::new(folder.path().join("last"));
        (folder, file)
    }

    fn put(file: &LastActiveFile, text: &[u8], mode: u32) {
        let _ = fs::remove_file(&file.path);
        fs::write(&file.path, text).unwrap();
        fs::set_permissions(&file.path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_remembered_is_recalled_and_nobody_else_can_read_it() {
        let (folder, file) = file();
        assert_eq!(file.recall(), None);
        for name in ["green", "blue"] {
            file.remember(&id(name));
            assert_eq!(file.recall(), Some(id(name)));
        }
        let mode = fs::metadata(&file.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn what_is_not_what_we_write_is_not_believed() {
        let (_folder, file) = file();
        let good = format!("{HEADER}\nblue\n");
        put(&file, good.as_bytes(), 0o600);
        assert_eq!(file.recall(), Some(id("blue")));
        let mut large = good.clone().into_bytes();
        large.resize(2048, b'\n');
        for bad in [
            &b""[..],
            b"blue\n",
            b"\xFF\xFE",
            b"multidb last active 2\nblue\n",
            format!("{good}more\n").as_bytes(),
            format!("{HEADER}\n\n").as_bytes(),
            format!("{HEADER}\n{}\n", "x".repeat(200)).as_bytes(),
            &large,
        ] {
            put(&file, bad, 0o600);
            assert_eq!(file.recall(), None, "{bad:?}");
        }
        for mode in [0o644, 0o660, 0o602] {
            put(&file, good.as_bytes(), mode);
            assert_eq!(file.recall(), None, "{mode:o}");
        }
    }

    #[test]
    fn links_folders_pipes_and_old_files_are_not_believed() {
        let (folder, file) = file();
        let elsewhere = LastActiveFile::new(folder.path().join("elsewhere"));
        elsewhere.remember(&id("blue"));
        symlink(&elsewhere.path, &file.path).unwrap();
        assert_eq!(file.recall(), None);
        file.remember(&id("green"));
        assert_eq!(
            elsewhere.recall(),
            Some(id("blue")),
            "nothing is written through a link"
        );
        assert_eq!(file.recall(), Some(id("green")));
        fs::hard_link(&file.path, folder.path().join("second")).unwrap();
        assert_eq!(file.recall(), None);
        fs::remove_file(folder.path().join("second")).unwrap();
        assert_eq!(file.clone().max_age(Duration::ZERO).recall(), None);
        fs::remove_file(&file.path).unwrap();
        fs::create_dir(&file.path).unwrap();
        assert_eq!(file.recall(), None);
        file.remember(&id("green"));
        let missing = LastActiveFile::new(folder.path().join("no/such/folder"));
        missing.remember(&id("green"));
        assert_eq!(missing.recall(), None);
    }
}
