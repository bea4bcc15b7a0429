//! Requests → configs, and what is refused.
