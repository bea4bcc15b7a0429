//! Writes OCI images without network or other container software, and holds the programs that go into them.
//!
//! An image is made in three steps, each a value that the next one takes: a [`tree::Tree`] (what is in a layer, from a
//! folder, a tar, a busybox, a Debian mirror), a layer blob ([`oci::layer`]), and an entry of an OCI layout folder
//! ([`oci::layout`]), which may then be packed into one file ([`oci::archive`]). The same input gives the same digest.
//!
//! This crate only writes images and never imports podshim; podshim only reads them. What the two agree on is the OCI
//! image specification 1.1, and nothing else.

pub mod busybox;
pub mod clock;
pub mod debian;
pub mod events;
pub mod facts;
pub mod oci;
pub mod shipper;
pub mod source;
pub mod sys;
pub mod tree;
