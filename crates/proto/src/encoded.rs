//! `brama.v1.Events` for a server that sends the same answer to many: each is encoded once, and its bytes are shared.
//!
//! On the wire this is the same service as [`crate::v1::events_server`].

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::{BufMut, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// The server's side, as [`Encoded`] answers need it.
#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/brama.v1.Events.rs"));
}
pub use generated::events_server;

/// An encoded message. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(Bytes);

impl Encoded {
    /// The bytes of a message.
    pub fn new(message: &impl Message) -> Self {
        Self(message.encode_to_vec().into())
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none: a message in which nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Sends [`Encoded`] messages as they are, and reads requests as usual.
#[derive(Debug)]
pub struct EncodedCodec<D>(PhantomData<fn() -> D>);

impl<D> Default for EncodedCodec<D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<D: Message + Default + Send + 'static> Codec for EncodedCodec<D> {
    type Encode = Encoded;
    type Decode = D;
    type Encoder = CopyBytes;
    type Decoder = ProstDecoder<D>;

    fn encoder(&mut self) -> CopyBytes {
        CopyBytes
    }

    fn decoder(&mut self) -> ProstDecoder<D> {
        ProstDecoder::default()
    }
}

/// What a stream begins with: room for one progress message.
const FIRST_BUFFER_BYTES: usize = 256;
/// With so many bytes at once a stream gives what it has to the connection; tonic's own figure.
const LARGEST_BUFFER_BYTES: usize = 32 * 1024;

/// The encoder of [`EncodedCodec`].
#[derive(Clone, Copy, Debug)]
pub struct CopyBytes;

impl Encoder for CopyBytes {
    type Item = Encoded;
    type Error = Status;

    /// A stream keeps its buffer for as long as it lasts, and most of the time there is nothing to send: tonic's own 8 KiB would be
    /// most of what a quiet subscriber costs. Where there is much to send, the buffer grows with it up to the same bound.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(FIRST_BUFFER_BYTES, LARGEST_BUFFER_BYTES)
    }

    fn encode(&mut self, item: Encoded, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item.0);
        Ok(())
    }
}
