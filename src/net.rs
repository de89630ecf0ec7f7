//! Sockets, up to the point where a leg has said who it is: accepting, telling protocols apart,
//! reading the first message, and a leg's two states, awake and parked.

pub mod access;
pub mod first_message;
pub mod leg;
pub mod listener;
pub mod read;
pub mod rewind;
pub mod sniff;
pub mod strangers;
pub mod stream;
pub mod write_deadline;
