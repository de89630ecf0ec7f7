//! The channel between a process and the one that takes over from it: messages with descriptors,
//! over a Unix socket that the new process inherits. Nobody else can have an end of it.
//!
//! What the messages mean is `gateway`'s and `relay`'s.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
        recvmsg, sendmsg, shutdown, socketpair,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// The longest message, in bytes: a leg's is its first bytes, which are bounded, and some words.
pub const MAX_MESSAGE: usize = 128 << 10;

/// The most descriptors of one message.
pub const MAX_DESCRIPTORS: usize = 128;

/// How long a send rests when the system holds too many descriptors on their way.
const REST: Duration = Duration::from_millis(5);

/// One end of it.
pub struct Channel(AsyncFd<OwnedFd>);

/// A message and its descriptors.
pub type Message = (Vec<u8>, Vec<OwnedFd>);

impl Channel {
    /// A new channel: one end for this process, the other to be inherited.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(family, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::of(ours)?, theirs))
    }

    /// The end that was inherited, on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses.
    #[expect(deprecated, reason = "as for listeners: the other way to do it is unsafe")]
    pub fn of(end: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&end, true)?;
        AsyncFd::with_interest(end, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Sends a message, when there is room for it.
    ///
    /// # Errors
    /// When it is too long, or the other end is closed.
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|end| try_send(end.as_fd(), bytes, descriptors)) {
                // Sent, and taken off the wire by nobody yet, by all processes of this user.
                Ok(Err(error)) if is_crowded(&error) => tokio::time::sleep(REST).await,
                Ok(sent) => return sent,
                Err(_) => {}
            }
        }
    }

    /// The next message; `None` once the other end will send no more.
    ///
    /// # Errors
    /// When one was cut short, or the other end is gone.
    pub async fn receive(&self) -> io::Result<Option<Message>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|end| try_receive(end.as_fd())) {
                // The other end is closed, and had not read everything. What it said before that
                // is still to be had.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(received) => return received,
                Err(_) => {}
            }
        }
    }

    /// Says that no message will follow.
    pub fn finish(&self) {
        // It fails only when the other end has gone, and knows.
        let _ = shutdown(self.0.get_ref(), Shutdown::Write);
    }
}

/// Sends a message, if there is room for it now: for who has no runtime.
///
/// # Errors
/// When there is none, it is too long, or the other end is closed.
pub fn try_send(
    end: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if bytes.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(end, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

fn try_receive(end: BorrowedFd<'_>) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::DONTWAIT;
    let received = recvmsg(end, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        // CTRUNC: this process may open no more descriptors.
        return Err(io::Error::other("a message was cut short: are descriptors used up?"));
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    bytes.shrink_to_fit();
    Ok(Some((bytes, descriptors)))
}

fn is_crowded(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, io::Write as _, net::TcpListener, net::TcpStream};

    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order_with_what_they_carry() {
        let (ours, theirs) = Channel::open().unwrap();
        let theirs = Channel::of(theirs).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let long = vec![7; MAX_MESSAGE];
        ours.send(b"first", &[socket.as_fd(), listener.as_fd()]).await.unwrap();
        ours.send(&long, &[]).await.unwrap();
        ours.send(&vec![7; MAX_MESSAGE + 1], &[]).await.unwrap_err();
        ours.finish();
        drop(socket);
        let (bytes, mut descriptors) = theirs.receive().await.unwrap().unwrap();
        assert_eq!((&bytes[..], descriptors.len()), (&b"first"[..], 2));
        let mut socket = TcpStream::from(descriptors.remove(0));
        socket.write_all(b"hello").unwrap();
        drop((socket, descriptors));
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"hello");
        assert_eq!(theirs.receive().await.unwrap().unwrap().0, long);
        assert!(theirs.receive().await.unwrap().is_none());
        // Who closes with something unread has still been heard.
        let (ours, theirs) = Channel::open().unwrap();
        ours.send(b"unread", &[]).await.unwrap();
        try_send(theirs.as_fd(), b"last words", &[]).unwrap();
        drop(theirs);
        assert_eq!(ours.receive().await.unwrap().unwrap().0, b"last words");
        assert!(ours.receive().await.unwrap().is_none());
    }
}
