-- A charge in another currency has no rate here; nothing may treat its amount as dollars.
{{ config(meta={"dagster": {"ref": {"name": "stg_charges"}}}) }}
select charge_id, currency, line_item from {{ ref("stg_charges") }} where currency <> 'USD'
