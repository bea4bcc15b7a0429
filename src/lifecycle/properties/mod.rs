//! Random pods under random sequences of events.
//!
//! | file | content |
//! |---|---|
//! | `plain` | pods of init and app containers, against a second, simpler telling of the rules |
//! | `everything` | pods with all there is, against what must always hold; a million steps of it |

mod everything;
mod plain;
