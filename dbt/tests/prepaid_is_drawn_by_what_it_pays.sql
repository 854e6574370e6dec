-- Usage that no line bills is paid by prepaid credits only as far as they are drawn down that day.
{{ config(meta={"dagster": {"ref": {"name": "stg_charges_of_prepaid"}}}) }}
select
    purchases.of_provider,
    purchases.of_account,
    purchases.currency,
    lines.usage_date,
    sum(lines.billed_cost) filter (where lines.charge_category = 'usage') as paid,
    -sum(lines.billed_cost) filter (where lines.charge_category = 'credit') as drawn
from {{ ref("stg_charges_of_prepaid") }} as lines
left join {{ ref("stg_purchases_of_prepaid") }} as purchases
    on purchases.charge_id = regexp_replace(lines.charge_id, '/(drawn|used)/.*', '')
group by all
having paid > coalesce(drawn, 0)
