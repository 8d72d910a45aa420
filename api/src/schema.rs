//! Schemas of types that are not ours to annotate.
//!
//! `core` knows no Kubernetes, so its `Cidr` has no schema; the API server also refuses what ipnet would generate.
//! Fields say `#[schemars(with = "CidrSchema")]`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// A CIDR without host bits, of either family.
pub enum CidrSchema {}

impl JsonSchema for CidrSchema {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            // An IPv6 address is at most 39 characters, the prefix length 4.
            "maxLength": 43,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self) && cidr(self) == cidr(self).masked()",
                "message": "must be a CIDR without host bits, such as 10.0.0.0/8 or fd00::/104",
            }],
        })
    }
}

/// A CIDR where only we write: a pattern, since CEL for each block of each node would cost the API server more than it
/// protects.
pub enum BlockSchema {}

impl JsonSchema for BlockSchema {
    fn schema_name() -> Cow<'static, str> {
        "Block".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 43, "pattern": "^[0-9a-f:.]+/[0-9]+$" })
    }
}

/// An address, a CIDR, or a range `first-last`.
pub enum RangeSchema {}

impl JsonSchema for RangeSchema {
    fn schema_name() -> Cow<'static, str> {
        "Range".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            // Two IPv6 addresses of 39 characters and what is between them.
            "maxLength": 79,
            "pattern": "^[0-9a-fA-F:.]+(/[0-9]+|-[0-9a-fA-F:.]+)?$",
        })
    }
}

/// `IPv4` or `IPv6`, as Kubernetes spells them.
pub enum FamilySchema {}

impl JsonSchema for FamilySchema {
    fn schema_name() -> Cow<'static, str> {
        "Family".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["IPv4", "IPv6"] })
    }
}
