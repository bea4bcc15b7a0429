//! page
/// x
pub fn page(_: &super::Survey) -> String { String::new() }
