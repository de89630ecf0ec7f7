//! The first message: whatever comes, it is refused or is a bounded name to pair by, and the key in
//! it is shown to nobody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::{
    net::first_message::of,
    wire::{
        frame,
        rendezvous::{ConnType, Hello, request_relay},
    },
};

const MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    if let Ok(hello) = Hello::parse(data) {
        sound(&hello);
        again(&hello);
        let framed = frame::encode(data).expect("short enough");
        if data.len() <= MAX {
            arrives_by_and_by(&framed);
        }
    }
    let refused = of(data, MAX).is_err();
    assert!(!refused || of(&[data, b"more"].concat(), MAX).is_err(), "refused, then taken");
});

fn sound(hello: &Hello) {
    let uuid = hello.uuid.as_str();
    assert!(!uuid.is_empty() && uuid.len() <= 128);
    let target = hello.target.as_ref().map_or("", |target| target.as_str());
    assert!(target.len() <= 128);
    let key = hello.licence_key.as_str();
    let shown = format!("{hello:?}");
    // A key that is a part of a name is there by that name.
    let named = format!("{:?}{:?}{:?}", hello.uuid, hello.target, hello.conn_type).contains(key);
    assert!(key.len() < 16 || named || !shown.contains(key), "{shown} shows the key");
}

/// What was understood, said in our own words, is understood the same.
fn again(hello: &Hello) {
    let target = hello.target.as_ref().map_or("", |target| target.as_str());
    let conn_type = ConnType::Default;
    let said = request_relay(hello.uuid.as_str(), target, &hello.licence_key, conn_type);
    let heard = Hello::parse(&said).expect("our own request");
    assert_eq!(heard.uuid.as_str(), hello.uuid.as_str());
    assert_eq!(heard.target.as_ref().map_or("", |target| target.as_str()), target);
    assert_eq!(*heard.licence_key, *hello.licence_key);
}

fn arrives_by_and_by(framed: &[u8]) {
    for end in 0..framed.len() {
        assert!(matches!(of(&framed[..end], MAX), Ok(None)), "not whole at {end}");
    }
    let (_, end) = of(framed, MAX).expect("a request").expect("whole");
    assert_eq!(end, framed.len());
}
