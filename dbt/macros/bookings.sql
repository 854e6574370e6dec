{# What an allocation is booked as: a line of the bill, or what stands for the bill of an account's day while it is not in.
   Usage that lines elsewhere pay for is booked without money. #}
{% macro booking_of(usage_date) -%}
    case
        when charge_id is not null then concat('charge/', charge_id)
        when cost_basis = 'billed' then concat('usage/', {{ key_of([usage_date, "provider", "account_id"]) }})
        else concat('estimate/', {{ key_of([usage_date, "provider", "account_id"]) }})
    end
{%- endmacro %}
