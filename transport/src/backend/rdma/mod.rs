//! The `rdma` wire: InfiniBand, RoCE and soft-RoCE, by verbs.

#[cfg(feature = "rdma")]
mod verbs;
