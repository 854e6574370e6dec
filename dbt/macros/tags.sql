{# Those of a map of tags whose keys are in a list; null of null. #}
{% macro tags_among(tags, keys) -%}
    case
        when {{ tags }} is not null
            then map_from_entries(
                list_filter(map_entries({{ tags }}), lambda tag: list_contains({{ keys }}, tag.key)) -- noqa: RF01
            )
    end
{%- endmacro %}

{# The tags of requests, over those of the line that bills them; null where neither has any. #}
{% macro said_by(request_tags, charge_tags) -%}
    case
        when {{ charge_tags }} is null then {{ request_tags }}
        when {{ request_tags }} is null then {{ charge_tags }}
        else map_concat({{ charge_tags }}, {{ request_tags }})
    end
{%- endmacro %}
