-- Every charge line is spread over cells to the last digit.
{{ config(meta={"dagster": {"ref": {"name": "int_charges_spread"}}}) }}
{{ not_conserved(
    ref("stg_charges"), ref("int_charges_spread"), ["charge_id"], "billed_usd", "amount", "charge_id is not null"
) }}
