{# Selectors from this level on are claims (tags); all below are durable identity. See dagster_project/ownership/. #}
{% macro claim_level() -%} 60 {%- endmacro %}

{# What decided, in words, for a selector's level. #}
{% macro evidence_of(level) -%}
    case
        when {{ level }} = 10 then 'gateway key'
        when {{ level }} = 11 then 'gateway user'
        when {{ level }} = 12 then 'gateway team'
        when {{ level }} = 20 then 'API key'
        when {{ level }} = 21 then 'principal'
        when {{ level }} = 30 then 'provider project'
        when {{ level }} = 40 then 'account'
        when {{ level }} = 50 then 'provider, gateway, model or line item'
        when {{ level }} >= {{ claim_level() }} then 'tag'
    end
{%- endmacro %}
