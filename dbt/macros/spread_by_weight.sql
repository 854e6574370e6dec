{#
  Each row's exact part of its charge's `billed_usd`, by `weight`; all weights zero: equal parts. `weighted` has
  charge_id, cell_id, match_level, billed_usd and weight.
#}
{% macro spread_by_weight(weighted) %}
    select
        cell_id,
        charge_id,
        match_level as charge_match,
        {{ exact_share("billed_usd", "weight", "weight_upto", "weight_total") }} as amount
    from (
        select
            *,
            sum(weight) over (partition by charge_id order by cell_id rows unbounded preceding) as weight_upto,
            sum(weight) over (partition by charge_id) as weight_total
        from (
            select
                * replace (
                    case when sum(weight) over (partition by charge_id) = 0 then 1 else weight end as weight
                )
            from {{ weighted }}
        ) as never_zero
    ) as cumulated
{% endmacro %}

{# A cell's weight beside the other cells of one charge (window `charge`): rated cost where all have one, else
   quantity where all have the same unit, else rated cost where there is one. #}
{% macro cell_weight(cells) -%}
    case
        when count(*) over charge = count({{ cells }}.rated_cost) over charge
            and sum({{ cells }}.rated_cost) over charge > 0
            then {{ money_weight(cells ~ ".rated_cost") }}
        when min({{ cells }}.unit) over charge = max({{ cells }}.unit) over charge
            and count(*) over charge = count({{ cells }}.quantity) over charge
            then {{ quantity_weight(cells ~ ".quantity") }}
        else coalesce(
            {{ money_weight(cells ~ ".rated_cost") }}, {{ money_weight("abs(" ~ cells ~ ".billed_usd)") }}, 0
        )
    end
{%- endmacro %}

