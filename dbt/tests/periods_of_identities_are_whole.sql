-- The periods of an identity cover all days, each once: no overlap, no hole.
{{ config(meta={"dagster": {"ref": {"name": "int_identities_resolved"}}}) }}
{{ not_whole(
    "(select distinct identity_id, valid_from, valid_to from " ~ ref("int_identities_resolved") ~ ")", ["identity_id"]
) }}
