//! What clients get: [`schema`], which they were promised, and [`messages`] of rows of it, which executors make ([`pack`]) where nothing is
//! left to do with the rows on their way.

pub mod messages;
pub mod pack;
pub mod schema;
