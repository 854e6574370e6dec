-- The periods of a thing's names cover all days, each once: no overlap, no hole. Else a join would repeat money.
{{ config(meta={"dagster": {"ref": {"name": "int_names"}}}) }}
{{ not_whole(ref("int_names"), ["kind", "provider", "account_id", "gateway", "id"]) }}
