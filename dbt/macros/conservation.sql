{#
  Rows here are money that a step lost or made up: sums of `amount` per `by` that differ between two relations.
  Both sides are compared in both directions, and nulls are different from zero.
#}
{% macro not_conserved(before, after, by, amount_before, amount_after, where="true") %}
with amounts_before as (
    select {% for key in by %}{{ key }}, {% endfor %} sum({{ amount_before }}) as amount
    from {{ before }}
    where {{ where }}
    group by all
),

amounts_after as (
    select {% for key in by %}{{ key }}, {% endfor %} sum({{ amount_after }}) as amount
    from {{ after }}
    where {{ where }}
    group by all
)

select
    {% for key in by %} coalesce(amounts_before.{{ key }}, amounts_after.{{ key }}) as {{ key }}, {% endfor %}
    amounts_before.amount as amount_before,
    amounts_after.amount as amount_after
from amounts_before
full outer join amounts_after
    on {% for key in by %} amounts_before.{{ key }} is not distinct from amounts_after.{{ key }} {{ "and" if not loop.last }} {% endfor %}
where amounts_before.amount is distinct from amounts_after.amount
{% endmacro %}

{# Fragments whose rule has shares; all others are one team's as they are. #}
{% macro of_split_services() -%}
    rule in (select splits.rule from {{ source("lake", "ownership_splits") }} as splits)
{%- endmacro %}
