//! What the OCI image specification 1.1 asks for: references, configuration, layers, the layout folder, archives; and pushing to
//! a registry.

pub mod archive;
pub mod config;
pub mod layer;
pub mod layout;
pub mod push;
pub mod reference;
