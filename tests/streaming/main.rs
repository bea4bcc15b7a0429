//! The streaming server of `podshim cri` as its clients meet it: client-go's own executors and port forwarder
//! (`tests/cri/streamclient`), and clients that mean ill. Behind it are processes and ports of this machine, without a container.

#[path = "../support/available.rs"]
mod available;
mod command;
mod fixture;
mod forward;
mod hostile;
mod raw;
#[path = "../support/streamclient.rs"]
mod streamclient;
