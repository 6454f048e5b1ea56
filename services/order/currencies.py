"""The currencies that amounts can be in: ISO 4217's list one as published on 2026-01-01. Pure.

https://www.six-group.com/en/products-services/financial-information/market-reference-data/data-standards.html
has it, and tells of changes, which come about once a year. The codes for which it has no minor unit are left out, as no
price is in them: metals, units of account, XTS (for tests) and XXX (no currency).
"""

from __future__ import annotations

_LIST = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF
CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD
HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD
MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN
PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD
TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CODES = frozenset(_LIST.split())
"""165 codes."""


def fault(code: str) -> str:
    """What is wrong with a code; empty when nothing is."""
    if code in CODES:
        return ""
    if len(code) == 3 and code.isascii() and code.isupper() and code.isalpha():
        return f"{code} is no currency of ISO 4217, or none any more"
    return "must be a three-letter ISO 4217 code such as EUR"
