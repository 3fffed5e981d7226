//! Any text as a configuration: TOML, JSON, variables of the environment, a URL.
//!
//! Nothing panics, and what is refused is not repeated: it may be a password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidb::redis::{RedisConfig, RedisEndpoint};
use multidb::{ConfigError, MultiDbClient};

/// Stands where secrets stand, in the seeds. No name of a field: those are said.
const SECRET: &str = "cAnary!7f3a9c";

fuzz_target!(|input: &[u8]| {
    let Some((way, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match way % 4 {
        0 => config(RedisConfig::from_toml(text)),
        1 => config(RedisConfig::from_json(text)),
        2 => variables(text),
        _ => url(text),
    }
});

fn config(read: Result<RedisConfig, ConfigError>) {
    let read = match read {
        Ok(read) => read,
        Err(error) => return refused(&error),
    };
    let _ = format!("{read:?}");
    // Certificates are files, and what is a file is for tests to say.
    if read.databases.iter().any(|database| database.tls.is_some()) {
        return;
    }
    let valid = read.validate();
    if let Err(error) = &valid {
        refused(error);
    }
    let built = read.builder();
    assert_eq!(
        built.as_ref().map(drop),
        valid.as_ref().map(drop).map_err(|error| error)
    );
}

/// One a line: `CALLS__DEADLINE=2s`. Their names are said: no secret is in them.
fn variables(text: &str) {
    let named = text.lines().filter_map(|line| line.split_once('='));
    let named = named.filter(|(name, _)| !name.contains(SECRET));
    let named = named.map(|(name, value)| (name.to_owned(), value.into()));
    config(RedisConfig::from_toml_and_variables("", named));
}

fn url(text: &str) {
    let endpoint = match RedisEndpoint::parse(text) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            refused(&error);
            let opened = MultiDbClient::open([(text, 1.0)]);
            let said = opened.map(drop).unwrap_err();
            assert!(!format!("{said} {said:?}").contains(SECRET), "{said:?}");
            return;
        }
    };
    let shown = format!("{endpoint:?} {}", endpoint.name());
    if in_userinfo_only(text) && endpoint.socket().is_none() {
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

/// Elsewhere it is no secret: a path, a host, the name of a master.
fn in_userinfo_only(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    // What is before the last `@` of what comes before a path, a query or a fragment.
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let Some((userinfo, host)) = authority.rsplit_once('@') else {
        return false;
    };
    userinfo.contains(SECRET)
        && ![scheme, host, after]
            .iter()
            .any(|part| part.contains(SECRET))
}

fn refused(error: &ConfigError) {
    let said = format!("{error} {error:?}");
    assert!(!said.contains(SECRET), "{said}");
}
