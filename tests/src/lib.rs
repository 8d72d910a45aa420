//! The harness of tests and demo: a real etcd and kube-apiserver, our own processes, network namespaces and cnitool,
//! each of which is gone when the value that stands for it is dropped, or when the test's process dies.
//!
//! ```text
//! Program ──start──▶ Proc          a program and its log; etcd, kube-apiserver, operator, agents
//!         ──run────▶ Output        a command that ends; kubectl, helm, cnitool, ip
//! ControlPlane                     etcd + kube-apiserver; clients and kubeconfigs for admin and ServiceAccounts
//! Proxy                            between operator and API server: what goes wrong there goes wrong on purpose
//! History                          every block that was ever published
//! Seed, Lone                       an agent without a cluster, and its plugin
//! Trace, Step                      what a process does, and its death at any step of it
//! Lab, Node                        a control plane and two nodes with kubelet and containerd, in namespaces
//! NetNs, Cni                       where pods live, and what attaches them
//! Machine                          the namespaces of a node with two pods, and a cable between two network cards
//! Fabric, Host                     nodes of their own on one switch, with folders for CNI
//! Pair                             two of these with operator and agents
//! Interface                        one attachment by one interface plugin, called without libcni
//! served(), Plugin                 a cluster of one node whose agent serves, and calls of our plugin
//! node(), pod()                    objects in one line
//! Spread, Goal                     what a benchmark found, and was to find
//! eventually()                     waits for a condition, and says which one did not come
//! ```

// A test that calls one of these and drops the answer is wrong at a glance; fifty attributes would hide the code.
#![allow(clippy::must_use_candidate)]

mod access;
mod audit;
mod builder;
mod certificate;
mod chart;
mod cluster;
mod cni;
mod control_plane;
mod eventually;
mod fabric;
mod figures;
mod flags;
mod forward;
mod history;
mod home;
mod lab;
mod lone;
mod machine;
mod netns;
mod objects;
mod pair;
mod paths;
mod process;
mod program;
mod proxy;
mod scratch;
mod seen;
mod served;
mod spawner;
mod strace;
mod tokens;

pub use audit::AuditEvent;
pub use builder::Builder;
pub use chart::{NAMESPACE, RELEASE};
pub use cluster::{AGENT, DUAL_STACK, OPERATOR};
pub use cni::{Attachment, Cni, Interface, Release, call_plugin};
pub use control_plane::ControlPlane;
pub use eventually::{Probe, eventually, until};
pub use fabric::{Fabric, Host, MTU};
pub use figures::{Goal, Spread, print_goals, quantile, short};
pub use history::History;
pub use lab::{Failures, Lab, Node, Running, Sight, Verdict, is_ready};
pub use lone::{Lone, Seed, ask, holders};
pub use machine::{CARDS, Machine};
pub use netns::NetNs;
pub use objects::{NodeBuilder, PodBuilder, node, pod};
pub use pair::Pair;
pub use paths::{binary, repo, tool, tools};
pub use process::Proc;
pub use program::{Output, Program};
pub use proxy::{Asked, Fault, Proxy};
pub use scratch::Scratch;
pub use served::{
    Answer, NODE, Plugin, SMALL_BLOCKS, Served, addresses, held, installed, ipam, report, served, status,
};
pub use strace::{Step, Trace, thread_of};
