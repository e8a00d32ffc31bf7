//! Bounds of what is read, each with its reason. A fleet of thousands fits; a mistake or an attack does not.

/// A thousand hosts take 60 to 100 KB; the db's values end at 1 MiB too.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// One file a host, for a fleet larger than any that was seen.
pub const FILES_MAX: usize = 10_000;

/// The smallest document has some 60 bytes, so a full file could hold 17,000; nobody reads such a file.
pub const DOCUMENTS_MAX: usize = 5_000;

/// The deepest kind has 6 levels.
pub const DEPTH_MAX: usize = 24;

/// Per document, aliases counted as what they stand for: stops nine levels of `[*a, *a]` at once.
pub const NODES_MAX: usize = 50_000;
