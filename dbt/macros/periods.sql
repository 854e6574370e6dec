{# Joins a row that holds from `valid_from` (inclusive) to `valid_to` (exclusive) to rows with a usage date. #}
{% macro holds_on(periods, usage_date) -%}
    {{ usage_date }} >= {{ periods }}.valid_from and {{ usage_date }} < {{ periods }}.valid_to
{%- endmacro %}

{# Rows here are periods of a thing (`by`) that overlap, leave a hole, or do not cover all days: a join by day would
   repeat or lose money. #}
{% macro not_whole(periods, by) %}
with neighbours as (
    select
        *,
        lag(valid_to, 1, date '0001-01-01') over thing as valid_to_before,
        lead(valid_from, 1, date '9999-12-31') over thing as valid_from_after
    from {{ periods }} as periods
    window thing as (partition by {{ by | join(", ") }} order by valid_from, valid_to)
)

select *
from neighbours
where valid_from <> valid_to_before or valid_to <> valid_from_after or valid_from >= valid_to
{% endmacro %}
