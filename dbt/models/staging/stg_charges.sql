-- One row per charge line: those that sources delivered, and those that follow from them by what is declared in
-- sources.yaml. A capacity's line stands as its parts. Lines are few, and asked for by many.
{{ config(materialized="table") }}
select *
from {{ ref("stg_charges_delivered") }}
where charge_id not in (select divided_charge_id from {{ ref("stg_charges_of_capacities") }})
union all by name
select * exclude (divided_charge_id) from {{ ref("stg_charges_of_capacities") }}
union all by name
select * from {{ ref("stg_charges_of_percentages") }}
union all by name
select * from {{ ref("stg_charges_of_prepaid") }}
