//! temporary
#![allow(missing_docs)]
use super::*; use crate::paths::Dirs; use anyhow::Result; use std::path::PathBuf;
pub struct Request { pub directory: PathBuf, pub only: Vec<u32>, pub seconds: u64, pub as_root: bool, pub cgroup_parent: Option<String> }
#[derive(serde::Serialize)] pub struct Row { pub student: String, pub result: Res }
#[derive(serde::Serialize)] pub struct Res; impl Res { pub fn word(&self)->&str{""} pub fn hint(&self)->&str{""} }
impl Row { pub fn label(&self)->String{String::new()} }
pub struct Class { pub rows: Vec<Row> } impl Class { pub fn csv(&self)->String{String::new()} pub fn any_failed(&self)->bool{true} }
pub fn class(_: &Request, _: &Lessons, _: &Dirs) -> Result<Class> { anyhow::bail!("x") }
