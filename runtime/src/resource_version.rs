//! The version of an object in the API server's store, as the number it is: who compares two of them can tell which is older.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Grows with every write (KEP-5504). `None`: the object was not read from an API server, or its version is no number.
#[must_use]
pub fn resource_version(metadata: &ObjectMeta) -> Option<u64> {
    metadata.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_number_or_none() {
        let of = |version: Option<&str>| {
            resource_version(&ObjectMeta { resource_version: version.map(str::to_owned), ..ObjectMeta::default() })
        };
        assert_eq!(of(Some("77")), Some(77));
        for none in [None, Some(""), Some("a"), Some("-1")] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }
}
