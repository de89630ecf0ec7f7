//! The relay's behaviour, over real sockets against a started gateway.

mod pairing;
mod support;
