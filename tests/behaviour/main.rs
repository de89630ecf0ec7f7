//! The relay's behaviour, over real sockets against a started gateway.

mod bulk;
mod early_bytes;
mod endings;
mod half_close;
mod halves;
mod mixed_transports;
mod pairing;
mod raw_websocket;
mod slow_readers;
mod support;
mod websocket_frames;
