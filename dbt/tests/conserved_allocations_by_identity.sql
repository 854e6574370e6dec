-- From its owner to who is booked, whatever is split or not: nothing is lost or made up, priced or not.
{{ config(meta={"dagster": {"ref": {"name": "int_allocations_by_identity"}}}) }}
{% set key = ["usage_date", "identity_id", "charge_id"] %}
{% set amounts = ["cost_usd", "list_cost_usd", "quantity"] %}
with
{%- for side, model in [("owned", "int_fragments_owned"), ("allocated", "int_allocations_by_identity")] %}
{{ side }} as (
    select
        {{ key | join(", ") }},
        {%- for amount in amounts %}
        sum({{ amount }}) as {{ amount }}{{ "," if not loop.last }}
        {%- endfor %}
    from {{ ref(model) }}
    group by all
){{ "," if not loop.last }}
{%- endfor %}

select
    {%- for column in key %}
    coalesce(owned.{{ column }}, allocated.{{ column }}) as {{ column }},
    {%- endfor %}
    {%- for amount in amounts %}
    owned.{{ amount }} as {{ amount }}_before,
    allocated.{{ amount }} as {{ amount }}_after{{ "," if not loop.last }}
    {%- endfor %}
from owned
full outer join allocated
    on owned.usage_date = allocated.usage_date
    and owned.identity_id = allocated.identity_id
    and owned.charge_id is not distinct from allocated.charge_id
where
    owned.usage_date is null
    or allocated.usage_date is null
    {%- for amount in amounts %}
    or owned.{{ amount }} is distinct from allocated.{{ amount }}
    {%- endfor %}
