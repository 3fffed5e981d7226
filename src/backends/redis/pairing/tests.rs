use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// One of every kind, and what may stand in what.
const REPLIES: &[&str] = &[
    "+OK\r\n",
    "+a\rb\nc\r\n",
    "+\r\n",
    "-ERR wrong\r\n",
    ":-7\r\n",
    "$5\r\nhello\r\n",
    "$2\r\n\r\n\r\n",
    "$0\r\n\r\n",
    "$-1\r\n",
    "*-1\r\n",
    "*0\r\n",
    "*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
    "_\r\n",
    "#t\r\n",
    ",1.5\r\n",
    "(123456789012345678901234567890\r\n",
    "!5\r\nERR x\r\n",
    "=7\r\ntxt:abc\r\n",
    "~2\r\n:1\r\n:2\r\n",
    "%2\r\n+a\r\n:1\r\n+b\r\n*0\r\n",
    "%0\r\n",
    "|1\r\n+ttl\r\n:3\r\n:7\r\n",
    "*1\r\n|1\r\n+ttl\r\n:3\r\n%1\r\n:7\r\n~0\r\n",
];

const PUSHES: &[&str] = &[
    ">3\r\n+message\r\n+channel\r\n+text\r\n",
    ">1\r\n$10\r\ninvalidate\r\n",
];

/// All of it in two reads, cut here; what is owed afterwards.
fn read_cut(bytes: &[u8], cut: usize, mut owed: u64) -> Result<u64, Odd> {
    let mut replies = Replies::default();
    replies.read(&bytes[..cut], &mut owed, true)?;
    replies.read(&bytes[cut..], &mut owed, true)?;
    Ok(owed)
}

#[test]
fn every_kind_of_reply_is_one_wherever_it_is_cut() {
    let all = REPLIES.concat().into_bytes();
    for cut in 0..=all.len() {
        let owed = REPLIES.len() as u64;
        assert_eq!(read_cut(&all, cut, owed), Ok(0), "{cut}");
        assert_eq!(read_cut(&all, cut, owed + 1), Ok(1), "{cut}");
        let one_less = read_cut(&all, cut, owed - 1).unwrap_err();
        assert_eq!(one_less.what, UNASKED, "{cut}");
    }
}

/// The driver and this file must mean the same by a reply.
#[test]
fn the_driver_reads_as_many_replies() {
    use tokio_util::codec::Decoder;
    let all = REPLIES.concat();
    let mut bytes = bytes_of(&all);
    let mut codec = ::redis::ValueCodec::default();
    let mut read = 0;
    while let Ok(Some(_)) = codec.decode(&mut bytes) {
        read += 1;
    }
    assert_eq!((read, bytes.len()), (REPLIES.len(), 0));
}

fn bytes_of(text: &str) -> bytes::BytesMut {
    bytes::BytesMut::from(text)
}

#[test]
fn strings_of_every_length_are_one_reply_wherever_they_are_cut() {
    for length in [0, 9, 10, 99, 100, 999, 1000, 12_345, 999_999] {
        let reply = format!("${length}\r\n{}\r\n", "x".repeat(length));
        let set = ::redis::cmd("SET")
            .arg(vec![b'x'; length])
            .get_packed_command();
        for cut in (0..24).chain([reply.len() - 3, reply.len() - 1, reply.len()]) {
            let cut = cut.min(reply.len());
            assert_eq!(read_cut(reply.as_bytes(), cut, 2), Ok(1), "{length}, {cut}");
            let mut requests = Requests::default();
            let begun = requests.wrote(&set[..cut]) + requests.wrote(&set[cut..]);
            assert_eq!((begun, requests.lacking), (1, 0), "{length}, {cut}");
        }
    }
}

#[test]
fn what_the_server_pushes_is_nobodys_reply() {
    for push in PUSHES {
        for cut in 0..=push.len() {
            assert_eq!(read_cut(push.as_bytes(), cut, 0), Ok(0), "{push:?}");
            assert_eq!(read_cut(push.as_bytes(), cut, 1), Ok(1), "{push:?}");
        }
    }
    let within = "*1\r\n>1\r\n+message\r\n:1\r\n";
    assert_eq!(read_cut(within.as_bytes(), 3, 2), Ok(0));
}

#[test]
fn a_refusal_before_anything_was_asked_is_let_through() {
    let (mut replies, mut owed) = (Replies::default(), 0);
    let full = b"-ERR max number of clients reached\r\n";
    assert_eq!(replies.read(full, &mut owed, false), Ok(()));
    let odd = replies.read(full, &mut owed, true).unwrap_err();
    assert_eq!((odd.whole, odd.what), (0, UNASKED));
    let odd = Replies::default().read(b"+OK\r\n", &mut owed, false);
    assert_eq!(odd.unwrap_err().what, UNASKED);
}

#[test]
fn what_cannot_end_or_cannot_be_kept_is_refused_at_its_first_bytes() {
    let line = |kind: &str| format!("{kind}{}", "1".repeat(LONGEST_LINE as usize + 1));
    let nested = "*8388608\r\n".to_owned() + &"*8388608\r\n".repeat(3);
    for (bomb, what) in [
        ("$1000000000\r\n".to_owned(), TOO_LARGE),
        ("$99999999999999999999999\r\n".to_owned(), TOO_LARGE),
        ("!1000000000\r\n".to_owned(), TOO_LARGE),
        ("*1000000000\r\n".to_owned(), TOO_LARGE),
        ("%1000000000\r\n".to_owned(), TOO_LARGE),
        ("%9223372036854775808\r\n".to_owned(), TOO_LARGE),
        ("~1000000000\r\n".to_owned(), TOO_LARGE),
        ("%-1\r\n".to_owned(), NO_LENGTH),
        ("|-1\r\n".to_owned(), NO_LENGTH),
        ("=-5\r\n".to_owned(), NO_LENGTH),
        ("~-1\r\n".to_owned(), NO_LENGTH),
        (">-1\r\n".to_owned(), NO_LENGTH),
        (">0\r\n".to_owned(), NO_LENGTH),
        ("$-5\r\n".to_owned(), NO_LENGTH),
        ("!-5\r\n".to_owned(), NO_LENGTH),
        (line("+"), TOO_LARGE),
        (line("("), TOO_LARGE),
        (nested, TOO_LARGE),
    ] {
        let head: String = bomb.chars().take(24).collect();
        let odd = read_cut(bomb.as_bytes(), 3, 1).unwrap_err();
        assert_eq!((odd.whole, odd.what), (0, what), "{head:?}");
    }
    let most = format!("*{}\r\n", MOST_VALUES - 2);
    assert_eq!(read_cut(most.as_bytes(), 3, 1), Ok(1));
}

#[test]
fn garbage_is_left_to_the_driver_and_nothing_is_read_after_it() {
    for garbage in [
        "hello\r\n",
        "$x\r\n",
        "$5\n",
        "*+1\r\n",
        "$1-\r\n",
        "*2\r\n!!",
        "\0",
    ] {
        let odd = read_cut(garbage.as_bytes(), 0, 1).unwrap_err();
        assert_eq!(
            (odd.whole, odd.what),
            (garbage.len(), NO_REPLY),
            "{garbage:?}"
        );
    }
}

#[test]
fn requests_are_counted_however_they_are_written() {
    let mut packed = Vec::new();
    for words in [
        &["PING"][..],
        &["SET", "k", ""],
        &["SET", "k", "*1\r\n$4\r\nPING\r\n"],
    ] {
        let mut command = ::redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        packed.extend(command.get_packed_command());
    }
    for cut in 0..=packed.len() {
        let mut requests = Requests::default();
        let begun = requests.wrote(&packed[..cut]) + requests.wrote(&packed[cut..]);
        assert_eq!((begun, requests.lacking), (3, 0), "{cut}");
    }
    let mut requests = Requests::default();
    assert!(!requests.begun);
    let one_by_one = packed.iter().map(|byte| requests.wrote(&[*byte]));
    assert_eq!(one_by_one.sum::<u64>(), 3);
    assert!(requests.begun);
}

/// Over a stream: what was asked for is read, and then there is an end.
#[tokio::test]
async fn a_second_answer_ends_the_connection_after_the_first() {
    let (near, mut far) = duplex(1024);
    let mut near = Paired::new(near);
    near.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    far.write_all(b"+PONG\r\n+PONG\r\n").await.unwrap();
    let mut read = vec![0; 64];
    assert_eq!(near.read(&mut read).await.unwrap(), 7);
    for _ in 0..2 {
        let error = near.read(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), UNASKED);
    }
}
