//! Builds OCI images without network or other container software.
fn main() {}
