"""A conformance kit: it judges any process that serves gestalt.provider.v1.S3, in whatever language it is written.

    gestalt-cas conformance --grpc unix:///path       every numbered case of the contract, as named checks
    gestalt-cas conformance --explore quick …         a Hypothesis state machine against an in-memory oracle
    suite.ConformanceSuite                            the same from a provider's own pytest tests

It speaks the wire contract and nothing else: no module of the store is imported here, so neither the checks nor the
oracle can share a mistake with the store. docs/conformance.md is for its users.
"""
