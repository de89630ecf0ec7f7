//! A translator as simple as can be: a byte at a time, nothing pointed at, nothing in place. It
//! shares no code with the real one.

use crate::{
    Ended,
    Transport::{self, Tcp, WebSocket},
};

/// One direction.
pub(crate) struct Model {
    from: Transport,
    to: Transport,
    max: usize,
    /// The header that is arriving.
    header: Vec<u8>,
    /// The frame that is arriving, once its header is whole.
    frame: Option<Frame>,
    /// Bytes of the message so far, between its fragments.
    message: Option<usize>,
    /// What TCP is told once it is whole.
    fragments: Option<Vec<u8>>,
    pong: Option<[u8; 2]>,
    close: Option<[u8; 2]>,
    closed: bool,
    ping: Option<Vec<u8>>,
    out: Vec<u8>,
}

struct Frame {
    operation: u8,
    last: bool,
    left: usize,
    mask: [u8; 4],
    at: usize,
    /// A control frame's.
    payload: Vec<u8>,
}

impl Model {
    pub(crate) fn new(from: Transport, to: Transport, max: usize) -> Self {
        Self {
            from,
            to,
            max,
            header: Vec::new(),
            frame: None,
            message: None,
            fragments: None,
            pong: None,
            close: None,
            closed: false,
            ping: None,
            out: Vec::new(),
        }
    }

    pub(crate) fn read(&mut self, piece: &[u8]) -> Result<(), Ended> {
        let read = piece.iter().try_for_each(|&byte| self.byte(byte));
        self.put_control();
        read
    }

    pub(crate) fn pong(&mut self, payload: u16) {
        self.pong = Some(payload.to_be_bytes());
    }

    pub(crate) fn close(&mut self, status: u16) {
        self.close.get_or_insert(status.to_be_bytes());
    }

    pub(crate) fn out(&self) -> &[u8] {
        &self.out
    }

    pub(crate) fn ping(&self) -> Option<&[u8]> {
        self.ping.as_deref()
    }

    fn byte(&mut self, byte: u8) -> Result<(), Ended> {
        match &mut self.frame {
            None => {
                self.header.push(byte);
                let frame = match self.from {
                    Tcp => self.tcp_header()?,
                    WebSocket => self.websocket_header()?,
                };
                let Some(frame) = frame else { return Ok(()) };
                self.header.clear();
                self.begin(&frame);
                self.frame = Some(frame);
            }
            Some(frame) => {
                let byte = byte ^ frame.mask[frame.at % 4];
                frame.at += 1;
                frame.left -= 1;
                if frame.operation >= 8 {
                    frame.payload.push(byte);
                } else if let Some(fragments) = &mut self.fragments {
                    fragments.push(byte);
                } else if !self.closed {
                    self.out.push(byte);
                }
            }
        }
        match self.frame.take_if(|frame| frame.left == 0) {
            Some(frame) => self.end(frame),
            None => Ok(()),
        }
    }

    fn tcp_header(&self) -> Result<Option<Frame>, Ended> {
        if self.header.len() <= usize::from(self.header[0] & 3) {
            return Ok(None);
        }
        let word = self.header.iter().rev().fold(0, |word, byte| word << 8 | usize::from(*byte));
        let left = word >> 2;
        if left > self.max {
            return Err(Ended::TooLong);
        }
        Ok(Some(Frame { operation: 2, last: true, left, mask: [0; 4], at: 0, payload: vec![] }))
    }

    fn websocket_header(&mut self) -> Result<Option<Frame>, Ended> {
        let &[first, second, ref rest @ ..] = &self.header[..] else { return Ok(None) };
        let wide = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let masked = second & 0x80 != 0;
        let Some((len, mask)) = rest.split_at_checked(wide) else { return Ok(None) };
        if masked && mask.len() < 4 {
            return Ok(None);
        }
        let len = match wide {
            0 => u64::from(second & 0x7F),
            _ => len.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
        };
        let (operation, last) = (first & 0xF, first & 0x80 != 0);
        let known = matches!(operation, 0..=2 | 8..=10);
        if !known || first & 0x70 != 0 || !masked {
            return Err(Ended::Protocol);
        }
        if operation >= 8 {
            if len > 125 || !last {
                return Err(Ended::Protocol);
            }
        } else {
            if (operation == 0) != self.message.is_some() {
                return Err(Ended::Protocol);
            }
            let so_far = self.message.unwrap_or(0);
            if u128::from(len) + so_far as u128 > self.max as u128 {
                return Err(Ended::TooLong);
            }
            self.message = (!last).then_some(so_far + len as usize);
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        Ok(Some(Frame { operation, last, left: len as usize, mask, at: 0, payload: vec![] }))
    }

    fn begin(&mut self, frame: &Frame) {
        if frame.operation >= 8 {
            return;
        }
        if self.to == WebSocket {
            self.frame = None;
            self.put_control();
            if !self.closed {
                let operation = if frame.operation == 0 { 0 } else { 2 };
                self.put_websocket_header(operation, frame.last, frame.left);
            }
        } else if frame.operation != 0 && frame.last {
            self.put_tcp_header(frame.left);
        } else {
            self.fragments.get_or_insert_default();
        }
    }

    fn end(&mut self, frame: Frame) -> Result<(), Ended> {
        match frame.operation {
            8 => return Err(Ended::Closed(frame.payload)),
            9 => self.ping = Some(frame.payload),
            0..=2 if frame.last => {
                if let Some(message) = self.fragments.take() {
                    self.put_tcp_header(message.len());
                    self.out.extend(message);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn put_tcp_header(&mut self, len: usize) {
        let size = match len {
            0..0x40 => 1,
            0x40..0x4000 => 2,
            0x4000..0x40_0000 => 3,
            _ => 4,
        };
        let word = len << 2 | (size - 1);
        self.out.extend_from_slice(&word.to_le_bytes()[..size]);
    }

    fn put_websocket_header(&mut self, operation: u8, last: bool, len: usize) {
        self.out.push(operation | if last { 0x80 } else { 0 });
        match len {
            0..126 => self.out.push(len as u8),
            126..0x1_0000 => {
                self.out.push(126);
                self.out.extend((len as u16).to_be_bytes());
            }
            _ => {
                self.out.push(127);
                self.out.extend((len as u64).to_be_bytes());
            }
        }
    }

    /// None in the middle of a frame that goes out.
    fn put_control(&mut self) {
        let within = self.frame.as_ref().is_some_and(|frame| frame.operation < 8);
        if self.to != WebSocket || within || self.closed {
            return;
        }
        if let Some(payload) = self.pong.take() {
            self.put_websocket_header(10, true, 2);
            self.out.extend(payload);
        }
        if let Some(status) = self.close {
            self.put_websocket_header(8, true, 2);
            self.out.extend(status);
            self.closed = true;
        }
    }
}
