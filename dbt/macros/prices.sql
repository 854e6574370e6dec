{# A context band above every threshold: what a bill or usage report means by "long". #}
{% macro any_long_context() -%} 9223372036854775806 {%- endmacro %}

{# The context band that a price is looked up for where a bill or usage report says the tier, or nothing. #}
{% macro band_of(context_tier) -%}
    (case when {{ context_tier }} = 'long' then {{ any_long_context() }} else 0 end)
{%- endmacro %}

{# Whether a UTC hour lies in a window of times of day, which may cross midnight. #}
{% macro within_time_of_day(hour, from_time, to_time) -%}
    case
        when {{ from_time }} < {{ to_time }}
            then {{ hour }} >= extract(hour from {{ from_time }}) and {{ hour }} < extract(hour from {{ to_time }})
        else {{ hour }} >= extract(hour from {{ from_time }}) or {{ hour }} < extract(hour from {{ to_time }})
    end
{%- endmacro %}

{# Joins `prices` to rows with the columns of a priced coordinate. `hour` and `context` are expressions. #}
{% macro on_price(rows, prices, hour, context) -%}
    {{ rows }}.usage_date = {{ prices }}.usage_date
    and {{ rows }}.provider = {{ prices }}.provider
    and {{ rows }}.account_id is not distinct from {{ prices }}.account_id
    and {{ rows }}.model_key is not distinct from {{ prices }}.model_key
    and {{ rows }}.meter = {{ prices }}.meter
    and {{ rows }}.service_tier is not distinct from {{ prices }}.service_tier
    and {{ context }} = {{ prices }}.context_above_tokens
    and {{ hour }} is not distinct from {{ prices }}.started_hour
{%- endmacro %}

{# Quantity in thousandths times price, in USD: all eighteen decimals. #}
{% macro rated_exactly(quantity, usd_per_unit) -%}
    case when {{ usd_per_unit }} is not null then {{ quantity }}::decimal(20, 3) * {{ usd_per_unit }} end
{%- endmacro %}

{# The same, rounded once to twelve decimals. #}
{% macro rated(quantity, usd_per_unit) -%} ({{ rated_exactly(quantity, usd_per_unit) }})::decimal(38, 12) {%- endmacro %}

{# Whether a value matches a glob in which only `*` is special. #}
{% macro matches_glob(value, glob) -%}
    {{ value }} like replace(replace(replace(replace({{ glob }}, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%') escape '\'
{%- endmacro %}

{# Whether a line of the contract prices covers a priced coordinate: an empty column of the line covers everything. #}
{% macro contract_holds(contract, coordinate) -%}
    {{ coordinate }}.provider = {{ contract }}.provider
    and ({{ contract }}.account_id is null or {{ coordinate }}.account_id = {{ contract }}.account_id)
    and ({{ contract }}.model is null or {{ matches_glob(coordinate ~ ".model_key", contract ~ ".model") }})
    and ({{ contract }}.meter is null or {{ coordinate }}.meter = {{ contract }}.meter)
    and (
        {{ contract }}.service_tier is null
        or coalesce({{ coordinate }}.service_tier, 'standard') = {{ contract }}.service_tier
    )
    and {{ coordinate }}.usage_date >= {{ contract }}.valid_from
    and {{ coordinate }}.usage_date < coalesce({{ contract }}.valid_to, date '9999-12-31')
{%- endmacro %}
