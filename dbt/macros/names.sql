{# Joins to `things` the name that its `kind` (project, api_key or principal) had at the provider on the usage date. #}
{% macro join_provider_name(things, kind, id) -%}
    left join {{ ref("int_names") }} as {{ kind }}s
        on {{ kind }}s.kind = '{{ kind }}'
        and {{ kind }}s.id = {{ things }}.{{ id }}
        and {{ kind }}s.provider = {{ things }}.provider
        and {{ kind }}s.account_id is not distinct from {{ things }}.account_id
        and {{ holds_on(kind ~ "s", things ~ ".usage_date") }}
{%- endmacro %}


{# The same for what a gateway named, where the request does not say it itself. #}
{% macro join_gateway_name(things, kind, id, name) -%}
    left join {{ ref("int_names") }} as {{ kind }}s
        on {{ things }}.{{ name }} is null
        and {{ kind }}s.kind = '{{ kind }}'
        and {{ kind }}s.id = {{ things }}.{{ id }}
        and {{ kind }}s.gateway = {{ things }}.source
        and {{ holds_on(kind ~ "s", things ~ ".usage_date") }}
{%- endmacro %}
