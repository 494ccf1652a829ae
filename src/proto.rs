//! Code generated from `proto/muster/v1` by `build.rs`; documented there.

/// Package `muster.v1`.
pub mod v1 {
    #![expect(
        clippy::allow_attributes,
        clippy::too_many_lines,
        unused_qualifications,
        reason = "generated code; the .proto files are the documentation"
    )]
    tonic::include_proto!("muster.v1");
}

/// How messages become bytes: as with tonic's own codec, for less.
///
/// Messages here have a few hundred bytes. tonic sets aside 8 KiB for each request and each answer, which the allocator
/// cannot take from its fast lists, and encodes a number byte by byte through calls that cannot be inlined: together a
/// tenth of what a call of Resolve costs.
pub mod codec {
    use std::marker::PhantomData;

    use prost::{Message, bytes::BufMut as _};
    use tonic::{
        Status,
        codec::{BufferSettings, EncodeBuf},
    };
    use tonic_prost::{ProstCodec, ProstDecoder};

    /// Room for most messages; a larger one makes itself more.
    const BUFFER_BYTES: usize = 512;
    /// What a stream gathers before it is sent.
    const YIELD_BYTES: usize = 32 * 1024;

    fn settings() -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }

    /// Encodes `T`, decodes `U`.
    #[derive(Debug)]
    pub struct Codec<T, U>(PhantomData<(T, U)>);

    impl<T, U> Default for Codec<T, U> {
        fn default() -> Self {
            Self(PhantomData)
        }
    }

    impl<T, U> tonic::codec::Codec for Codec<T, U>
    where
        T: Message + Send + 'static,
        U: Message + Default + Send + 'static,
    {
        type Encode = T;
        type Decode = U;
        type Encoder = Encoder<T>;
        type Decoder = ProstDecoder<U>;

        fn encoder(&mut self) -> Encoder<T> {
            Encoder(PhantomData)
        }

        fn decoder(&mut self) -> ProstDecoder<U> {
            ProstCodec::<T, U>::raw_decoder(settings())
        }
    }

    /// Encodes a message at once, then copies it.
    #[derive(Debug)]
    pub struct Encoder<T>(PhantomData<T>);

    impl<T: Message> tonic::codec::Encoder for Encoder<T> {
        type Item = T;
        type Error = Status;

        fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.put_slice(&item.encode_to_vec());
            Ok(())
        }

        fn buffer_settings(&self) -> BufferSettings {
            settings()
        }
    }
}

/// Messages whose parts are encoded beforehand.
///
/// A change goes to every watcher, and an instance into many batches: encoding it again for each would cost most of the
/// time. An embedded message and a field of bytes look the same on the wire, so these types carry encoded messages
/// where `proto/muster/v1/discovery.proto` has embedded ones; that text is the interface, and a test holds the two
/// against each other. A Rust client decodes a part with the type named at its field.
pub mod encoded {
    use prost::bytes::Bytes;

    /// As `muster.v1.WatchResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WatchResponse {
        /// Each an encoded [`super::v1::WatchEvent`].
        #[prost(bytes = "bytes", repeated, tag = "1")]
        pub events: Vec<Bytes>,
        /// With these the client has seen everything that matches up to this revision.
        #[prost(uint64, tag = "2")]
        pub revision: u64,
        /// The history that the revision belongs to.
        #[prost(string, tag = "3")]
        pub history_id: String,
        /// UUID of the current epoch.
        #[prost(string, tag = "4")]
        pub cluster_epoch: String,
        /// Number of the current epoch.
        #[prost(uint64, tag = "5")]
        pub epoch_number: u64,
        /// Drop everything known so far: a snapshot follows.
        #[prost(bool, tag = "6")]
        pub reset: bool,
        /// The snapshot ends with this response.
        #[prost(bool, tag = "7")]
        pub snapshot_complete: bool,
        /// Only what the caller may read is told.
        #[prost(bool, tag = "8")]
        pub filtered: bool,
        /// How long ago PostgreSQL last confirmed what the daemon knows.
        #[prost(message, optional, tag = "9")]
        pub stale_for: Option<prost_types::Duration>,
    }

    /// As `muster.v1.BatchResolveResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct BatchResolveResponse {
        /// Each an encoded [`super::v1::BatchResolveResult`].
        #[prost(bytes = "bytes", repeated, tag = "1")]
        pub results: Vec<Bytes>,
        /// UUID of the current epoch.
        #[prost(string, tag = "2")]
        pub cluster_epoch: String,
        /// Number of the current epoch.
        #[prost(uint64, tag = "3")]
        pub epoch_number: u64,
        /// The answers are right as of this revision.
        #[prost(uint64, tag = "4")]
        pub revision: u64,
        /// How long ago PostgreSQL last confirmed what the daemon knows.
        #[prost(message, optional, tag = "5")]
        pub stale_for: Option<prost_types::Duration>,
    }
}

/// The encoded descriptor set of the protocol, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// A duration from the wire; `None` if it is negative or malformed.
///
/// Not by prost's own conversion, which overflows on what a peer may make up.
#[must_use]
pub fn std_duration(wire: &prost_types::Duration) -> Option<std::time::Duration> {
    let (seconds, nanos) = (u64::try_from(wire.seconds).ok()?, u32::try_from(wire.nanos).ok()?);
    (nanos < NANOS_PER_SECOND).then(|| std::time::Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_well_formed_text_is_a_duration() {
        let read = |seconds, nanos| std_duration(&prost_types::Duration { seconds, nanos });
        assert_eq!(read(0, 0), Some(Duration::ZERO));
        assert_eq!(read(i64::MAX, 999_999_999), Some(Duration::new(i64::MAX.unsigned_abs(), 999_999_999)));
        for (seconds, nanos) in [(-1, 0), (0, -1), (1, -1), (0, 1_000_000_000), (i64::MAX, i32::MAX), (-1, i32::MIN)] {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
    }

    proptest! {
        #[test]
        fn no_duration_from_outside_panics(seconds in any::<i64>(), nanos in any::<i32>()) {
            let read = std_duration(&prost_types::Duration { seconds, nanos });
            prop_assert_eq!(read.is_some(), seconds >= 0 && (0..1_000_000_000).contains(&nanos));
        }
    }
}
