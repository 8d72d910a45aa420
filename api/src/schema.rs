//! Schemas of types that are not ours to annotate.
//!
//! `core` knows no Kubernetes, so its `Cidr` has no schema; the API server also refuses what ipnet would generate.
//! Fields say `#[schemars(with = "CidrSchema")]`.

/// Gives a type this schema, written out wherever a field has it. For strings that are read as something else.
macro_rules! inline_schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
pub(crate) use inline_schema;

/// A CIDR without host bits, of either family.
pub enum CidrSchema {}

inline_schema!(CidrSchema, "Cidr", {
    "type": "string",
    // An IPv6 address is at most 39 characters, the prefix length 4.
    "maxLength": 43,
    "x-kubernetes-validations": [{
        "rule": "isCIDR(self) && cidr(self) == cidr(self).masked()",
        "message": "must be a CIDR without host bits, such as 10.0.0.0/8 or fd00::/104",
    }],
});

/// A CIDR where only we write: a pattern, since CEL for each block of each node would cost the API server more than it
/// protects.
pub enum BlockSchema {}

inline_schema!(BlockSchema, "Block", { "type": "string", "maxLength": 43, "pattern": "^[0-9a-f:.]+/[0-9]+$" });

/// An address, a CIDR, or a range `first-last`.
pub enum RangeSchema {}

inline_schema!(RangeSchema, "Range", {
    "type": "string",
    // Two IPv6 addresses of 39 characters and what is between them.
    "maxLength": 79,
    "pattern": "^[0-9a-fA-F:.]+(/[0-9]+|-[0-9a-fA-F:.]+)?$",
});

/// An address that only we write.
pub enum AddressSchema {}

inline_schema!(AddressSchema, "Address", { "type": "string", "maxLength": 45 });

/// `IPv4` or `IPv6`, as Kubernetes spells them.
pub enum FamilySchema {}

inline_schema!(FamilySchema, "Family", { "type": "string", "enum": ["IPv4", "IPv6"] });
