// Command validate builds kustomizations and holds what comes out against the Go types of Kubernetes' API, as the API
// server does with strict field validation, and its pods against the Pod Security Standards. It asks no cluster.
//
// Usage: validate DIRECTORY...: prints a JSON object, DIRECTORY to its list of objects.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	security "k8s.io/pod-security-admission/api"
	standards "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	built := map[string][]json.RawMessage{}
	for _, directory := range os.Args[1:] {
		objects, err := validate(directory)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", directory, err)
			os.Exit(1)
		}
		built[directory] = objects
	}
	if err := json.NewEncoder(os.Stdout).Encode(built); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func validate(directory string) ([]json.RawMessage, error) {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		return nil, err
	}
	strict, err := strictDecoder()
	if err != nil {
		return nil, err
	}
	var objects []json.RawMessage
	for _, resource := range resources.Resources() {
		text, err := resource.MarshalJSON()
		if err != nil {
			return nil, err
		}
		object, _, err := strict.Decode(text, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", resource.CurId(), err)
		}
		if deployment, is := object.(*apps.Deployment); is {
			if err := restricted(&deployment.Spec.Template); err != nil {
				return nil, fmt.Errorf("%s: %w", resource.CurId(), err)
			}
		}
		objects = append(objects, text)
	}
	return objects, nil
}

// strictDecoder refuses kinds it does not know, unknown fields and fields given twice.
func strictDecoder() (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		apps.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme, monitoring.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return serializer.NewSerializerWithOptions(
		serializer.DefaultMetaFactory, scheme, scheme, serializer.SerializerOptions{Strict: true},
	), nil
}

// restricted holds a pod against the strictest of the Pod Security Standards.
func restricted(template *core.PodTemplateSpec) error {
	evaluator, err := standards.NewEvaluator(standards.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := security.LevelVersion{Level: security.LevelRestricted, Version: security.LatestVersion()}
	result := standards.AggregateCheckResults(
		evaluator.EvaluatePod(level, &meta.ObjectMeta{Annotations: template.Annotations}, &template.Spec),
	)
	if !result.Allowed {
		return fmt.Errorf("not restricted: %s", result.ForbiddenDetail())
	}
	return nil
}
