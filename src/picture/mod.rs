//! What a pod is at this moment, as a picture: for the terminal ([`tree`]) and as a page ([`html`]).
//!
//! Input: pods of the store, and what the kernel says of them in `/proc`, in the cgroup files and by rtnetlink(7). Output: a
//! [`Survey`], which is plain data, and texts made of it by pure functions. Nothing is changed, and no supervisor is asked: what
//! is shown is what there is, also of a pod whose supervisor is gone.
//!
//! | file | content |
//! |---|---|
//! | [`model`] | the data, and what follows from it: which namespace is whose |
//! | [`survey`] | gathers it |
//! | `text` | texts of containers: bounded, without control characters; numbers for people |
//! | [`tree`] | pure: the drawing for a terminal |
//! | [`html`] | pure: the page |
//!
//! Command lines and names come from containers: they are bounded when they are read and escaped when they are written.

pub mod html;
pub mod model;
#[cfg(test)]
mod sample;
pub mod survey;
mod text;
pub mod tree;

pub use model::Survey;
