//! Shows a pod: what would be done for it, and what was done.
//!
//! In: a pod's plan and images. Out: text and values for people. Nothing here decides what a container is: everything shown
//! comes of the plan, the OCI `Spec` and the steps that the supervisor works from.
//!
//! | file | content |
//! |---|---|
//! | [`bundles`] | a plan as OCI bundles, which other runtimes run |
//! | `planned` | a pod's plan, down to each container's spec and steps |
//! | [`script`] | a script that builds the pod by hand |
//! | [`steps`] | what each step is, and why it is done |
//! | [`tree`] | a plan as a tree, for people |
//! | [`text`] | text of manifests and images, which is not to be trusted, for terminals |

pub mod bundles;
mod planned;
pub mod script;
pub mod steps;
pub mod text;
pub mod tree;

pub use planned::{Given, Planned, PlannedContainer, PlannedVolume, planned};
