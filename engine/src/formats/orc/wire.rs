//! The messages of ORC files, as far as they are read here. What they leave out is unknown to readers, as it is to those of older versions.

use prost::Message;

/// Kind of the types that have named parts.
pub(super) const STRUCT: i32 = 12;
/// Kind of the types whose values are of one of several types.
pub(super) const UNION: i32 = 13;
/// Kind of decimals.
pub(super) const DECIMAL: i32 = 14;
/// The last kind of types that there is: instants.
pub(super) const LAST_KIND: i32 = 18;
/// The last kind of compression that there is: zstd.
pub(super) const LAST_COMPRESSION: i32 = 5;

/// The end of every file, never compressed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PostScript {
    #[prost(uint64, optional, tag = "1")]
    pub(super) footer_length: Option<u64>,
    #[prost(int32, optional, tag = "2")]
    pub(super) compression: Option<i32>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) compression_block_size: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) metadata_length: Option<u64>,
    /// Counts mistakes that the writer does not make any more.
    #[prost(uint32, optional, tag = "6")]
    pub(super) writer_version: Option<u32>,
    #[prost(string, optional, tag = "8000")]
    pub(super) magic: Option<String>,
}

/// What stands before the postscript.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Footer {
    #[prost(message, repeated, tag = "3")]
    pub(super) stripes: Vec<StripeInformation>,
    /// The first is the row's; each names those that it is made of.
    #[prost(message, repeated, tag = "4")]
    pub(super) types: Vec<Type>,
    #[prost(uint64, optional, tag = "6")]
    pub(super) number_of_rows: Option<u64>,
    /// By type.
    #[prost(message, repeated, tag = "7")]
    pub(super) statistics: Vec<ColumnStatistics>,
    /// 0, or nothing, for the Java library.
    #[prost(uint32, optional, tag = "9")]
    pub(super) writer: Option<u32>,
    #[prost(message, optional, tag = "10")]
    pub(super) encryption: Option<Encryption>,
}

/// What stands before the footer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    /// By stripe.
    #[prost(message, repeated, tag = "1")]
    pub(super) stripes: Vec<StripeStatistics>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StripeStatistics {
    /// By type.
    #[prost(message, repeated, tag = "1")]
    pub(super) columns: Vec<ColumnStatistics>,
}

/// A stripe is an index, data and a footer, one after the other.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StripeInformation {
    #[prost(uint64, optional, tag = "1")]
    pub(super) offset: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) index_length: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) data_length: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(super) footer_length: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) number_of_rows: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Type {
    #[prost(int32, optional, tag = "1")]
    pub(super) kind: Option<i32>,
    #[prost(uint32, repeated, tag = "2")]
    pub(super) subtypes: Vec<u32>,
    #[prost(string, repeated, tag = "3")]
    pub(super) field_names: Vec<String>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) maximum_length: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub(super) precision: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub(super) scale: Option<u32>,
    #[prost(message, repeated, tag = "7")]
    pub(super) attributes: Vec<Attribute>,
}

/// What a writer says of a type beside.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, optional, tag = "1")]
    pub(super) key: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

/// That there is any is all that matters.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Encryption {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ColumnStatistics {
    /// Without NULLs.
    #[prost(uint64, optional, tag = "1")]
    pub(super) number_of_values: Option<u64>,
    #[prost(message, optional, tag = "2")]
    pub(super) integers: Option<IntegerStatistics>,
    #[prost(message, optional, tag = "4")]
    pub(super) strings: Option<StringStatistics>,
    #[prost(message, optional, tag = "5")]
    pub(super) buckets: Option<BucketStatistics>,
    #[prost(message, optional, tag = "6")]
    pub(super) decimals: Option<DecimalStatistics>,
    #[prost(message, optional, tag = "7")]
    pub(super) dates: Option<DateStatistics>,
    #[prost(message, optional, tag = "9")]
    pub(super) timestamps: Option<TimestampStatistics>,
    #[prost(bool, optional, tag = "10")]
    pub(super) has_null: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct IntegerStatistics {
    #[prost(sint64, optional, tag = "1")]
    pub(super) minimum: Option<i64>,
    #[prost(sint64, optional, tag = "2")]
    pub(super) maximum: Option<i64>,
}

/// Bounds of long texts have other fields.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StringStatistics {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(super) minimum: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) maximum: Option<Vec<u8>>,
    /// Bytes of all values.
    #[prost(sint64, optional, tag = "3")]
    pub(super) sum: Option<i64>,
}

/// Of booleans.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BucketStatistics {
    /// How many are true.
    #[prost(uint64, repeated, tag = "1")]
    pub(super) count: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DecimalStatistics {
    #[prost(string, optional, tag = "1")]
    pub(super) minimum: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) maximum: Option<String>,
}

/// Days since 1970.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DateStatistics {
    #[prost(sint32, optional, tag = "1")]
    pub(super) minimum: Option<i32>,
    #[prost(sint32, optional, tag = "2")]
    pub(super) maximum: Option<i32>,
}

/// Milliseconds since 1970 of the times as they are read, if these stood in UTC.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TimestampStatistics {
    #[prost(sint64, optional, tag = "3")]
    pub(super) minimum_utc: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    pub(super) maximum_utc: Option<i64>,
}

/// The end of a stripe.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StripeFooter {
    /// In the order in which they lie in the stripe.
    #[prost(message, repeated, tag = "1")]
    pub(super) streams: Vec<Stream>,
    /// By type.
    #[prost(message, repeated, tag = "2")]
    pub(super) columns: Vec<ColumnEncoding>,
    #[prost(string, optional, tag = "3")]
    pub(super) writer_timezone: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Stream {
    #[prost(int32, optional, tag = "1")]
    pub(super) kind: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) column: Option<u32>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) length: Option<u64>,
}

impl Stream {
    /// Whether values are made of it: of presence, data, lengths, dictionaries, seconds. Others are indexes.
    pub(super) fn is_data(&self) -> bool {
        matches!(self.kind(), 0..=5)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ColumnEncoding {
    #[prost(int32, optional, tag = "1")]
    pub(super) kind: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) dictionary_size: Option<u32>,
}
