{# Whether a line bills usage: a day that has one is billed. What a bill's groups leave out (an adjustment) is usage, too. #}
{% macro bills_usage(category) -%} {{ category }} in ('usage', 'adjustment') {%- endmacro %}

{# Whether a line can stand for the usage that it bills, where no report has any. A refund and an adjustment bill usage,
   but of the lines beside them. #}
{% macro stands_for_usage(line) -%}
    (
        {{ bills_usage(line ~ ".charge_category") }}
        and {{ line }}.charge_category <> 'adjustment'
        and {{ line }}.billed_usd >= 0
        and coalesce({{ line }}.quantity, 0) >= 0
    )
{%- endmacro %}

{# The key that a line names: `no_key` says that it is nobody's, so the line is its project's. #}
{% macro named_key(api_key_id) -%} nullif({{ api_key_id }}, 'no_key') {%- endmacro %}

{# Whether a cell may be what a line with a `named_key_id` is for: neither names another project or key. #}
{% macro agrees_in_identity(line, cell) -%}
    {{ line }}.usage_date = {{ cell }}.usage_date
    and {{ line }}.provider = {{ cell }}.provider
    and {{ line }}.account_id is not distinct from {{ cell }}.account_id
    and coalesce({{ line }}.provider_project_id = {{ cell }}.provider_project_id, true)
    and coalesce({{ line }}.named_key_id = {{ cell }}.api_key_id, true)
{%- endmacro %}

{# Whether a line is a purchase of prepaid credits, as sources.yaml declares it. #}
{% macro is_purchase_of(line, prepaid) -%}
    {{ line }}.source = {{ prepaid }}.source
    and {{ line }}.line_item = {{ prepaid }}.name
    and {{ line }}.usage_date = {{ prepaid }}.day
{%- endmacro %}

{# Whether what is declared of an account, or of all accounts of a provider, is meant for this one. #}
{% macro is_of_account(declared, account_id) -%}
    ({{ declared }}.of_account is null or coalesce({{ account_id }} = {{ declared }}.of_account, false))
{%- endmacro %}
